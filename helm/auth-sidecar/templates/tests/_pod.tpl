{{/*
The spec of the pod of `helm test`. Where it runs and what it resolves is as in the sidecar's pods, except that it keeps no
distance from them.
*/}}
{{- define "auth-sidecar.testPod" -}}
{{- $url := printf "http://%s:%v%s/userinfo" (include "auth-sidecar.fullname" .) .Values.service.port (.Values.config.server.prefix | default "/oauth2") -}}
restartPolicy: Never
serviceAccountName: {{ eq .Values.shape "attached" | ternary "default" (include "auth-sidecar.serviceAccountName" .) }}
{{ include "auth-sidecar.podFields" . }}
{{- with .Values.affinity.nodeAffinity }}
affinity:
  nodeAffinity:
    {{- toYaml . | nindent 4 }}
{{- end }}
containers:
  {{- /* The Service leads to a sidecar, which rejects requests without credentials. */}}
  - name: answers
    {{- include "auth-sidecar.testFields" (list . "image" "imagePullPolicy" "securityContext" "resources") | nindent 4 }}
    command:
      - python
      - -c
      - |
        import json, sys, urllib.error, urllib.request
        url = sys.argv[1]
        try:
            status, body = 200, urllib.request.urlopen(url, timeout=10).read(4096)
        except urllib.error.HTTPError as answer:
            status, body = answer.code, answer.read(4096)
        except OSError as error:
            sys.exit(f"GET {url}: no answer: {error}")
        print(f"GET {url} without credentials: {status} {body.decode(errors='replace')}")
        try:
            reason = json.loads(body)["reason"]
        except (ValueError, LookupError, TypeError):
            reason = "none"
        if (status, reason) != (401, "token_missing"):
            sys.exit(f"expected 401 with the reason token_missing, got {status} with the reason {reason}")
      - {{ $url }}
  {{- if eq .Values.shape "standalone" }}
  {{- /* Identity providers, store and upstream are reachable from the cluster. */}}
  - name: check
    args: [check, --config, /etc/sidecar/config.yaml]
    {{- include "auth-sidecar.testFields" (list . "image" "imagePullPolicy" "env" "envFrom" "securityContext" "resources" "volumeMounts") | nindent 4 }}
  {{- end }}
{{- if eq .Values.shape "standalone" }}
volumes:
  - name: sidecar-state
    emptyDir: {}
  {{- include "auth-sidecar.volumes" . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* Fields of the sidecar's container, for a container of the test: (list . "image" "resources"). */}}
{{- define "auth-sidecar.testFields" -}}
{{- $container := include "auth-sidecar.container" (first .) | fromYaml -}}
{{- $fields := dict -}}
{{- range $name := rest . -}}
{{- if hasKey $container $name -}}{{- $_ := set $fields $name (get $container $name) -}}{{- end -}}
{{- end -}}
{{- toYaml $fields -}}
{{- end -}}
