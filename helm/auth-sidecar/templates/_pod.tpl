{{/* The sidecar's container. */}}
{{- define "auth-sidecar.container" -}}
name: auth-sidecar
image: {{ include "auth-sidecar.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
args: [serve, --config, /etc/sidecar/config.yaml]
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
ports:
  - name: auth
    containerPort: {{ include "auth-sidecar.publicPort" . }}
  - name: auth-admin
    containerPort: {{ include "auth-sidecar.adminPort" . }}
{{- with .Values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.envFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
startupProbe:
  httpGet: {path: /livez, port: auth-admin}
  periodSeconds: 2
  failureThreshold: 30
livenessProbe:
  httpGet: {path: /livez, port: auth-admin}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: auth-admin}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- if include "auth-sidecar.isNative" . }}
lifecycle:
  # A native sidecar gets SIGTERM only after the server has ended, and would answer 502 until then. So the drain starts here,
  # at the same time as the server's own hook. The hook ends with the process.
  preStop:
    exec:
      command: [python, -c, "import os, signal, time; os.kill(1, signal.SIGTERM); time.sleep(86400)"]
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  {{- include "auth-sidecar.volumeMounts" . | nindent 2 }}
{{- end -}}

{{- define "auth-sidecar.image" -}}
{{- $image := .Values.image -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $image.repository $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "auth-sidecar.volumeMounts" -}}
- {name: sidecar-config, mountPath: /etc/sidecar, readOnly: true}
- {name: sidecar-state, mountPath: /var/lib/sidecar}
- {name: sidecar-tmp, mountPath: /tmp}
{{- if or .Values.secret.data .Values.secret.existingSecret }}
- {name: sidecar-secrets, mountPath: /run/sidecar/secrets, readOnly: true}
{{- end }}
{{- if .Values.signingKeys.existingSecret }}
- {name: sidecar-keys, mountPath: /run/sidecar/keys, readOnly: true}
{{- end }}
{{- if .Values.redis.enabled }}
- {name: sidecar-redis, mountPath: /run/sidecar/redis, readOnly: true}
{{- end }}
{{- with .Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The volumes of these mounts, except the one for state. */}}
{{- define "auth-sidecar.volumes" -}}
- name: sidecar-config
  configMap:
    name: {{ include "auth-sidecar.fullname" . }}
- name: sidecar-tmp
  emptyDir: {sizeLimit: 64Mi}
{{- if or .Values.secret.data .Values.secret.existingSecret }}
- name: sidecar-secrets
  secret:
    secretName: {{ default (include "auth-sidecar.fullname" .) .Values.secret.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- with .Values.signingKeys.existingSecret }}
- name: sidecar-keys
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- if .Values.redis.enabled }}
- name: sidecar-redis
  secret:
    {{- include "auth-sidecar.redisSecret" . | nindent 4 }}
{{- end }}
{{- with .Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Volume for state: the SQLite file on the claim; with Redis only cached keys, which may be lost. */}}
{{- define "auth-sidecar.stateVolume" -}}
- name: sidecar-state
{{- if and (include "auth-sidecar.usesSqlite" .) .Values.persistence.enabled }}
  persistentVolumeClaim:
    claimName: {{ default (include "auth-sidecar.fullname" .) .Values.persistence.existingClaim }}
{{- else }}
  emptyDir: {sizeLimit: 1Gi}
{{- end }}
{{- end -}}

{{/* The Secret of this release's Redis, as the source of a volume. */}}
{{- define "auth-sidecar.redisSecret" -}}
secretName: {{ default (printf "%s-redis" (include "auth-sidecar.fullname" .)) .Values.redis.existingSecret }}
defaultMode: 0440
items:
  - key: {{ ternary .Values.redis.existingSecretKey "password" (ne .Values.redis.existingSecret "") }}
    path: password
{{- end -}}

{{/*
The server's container. Other pods may still use the pod's address for a moment after its termination begins. A server
without a hook of its own therefore waits for the sidecar's drainDelay, while the sidecar still accepts connections, and two
seconds more (the action needs Kubernetes 1.30).
*/}}
{{- define "auth-sidecar.besideContainer" -}}
{{- $container := deepCopy .Values.beside.container -}}
{{- $knowsSleep := semverCompare ">=1.30-0" .Capabilities.KubeVersion.Version -}}
{{- if and $knowsSleep (not $container.lifecycle) -}}
{{- $sleep := dict "seconds" (add 2 (include "auth-sidecar.drainDelay" . | int)) -}}
{{- $_ := set $container "lifecycle" (dict "preStop" (dict "sleep" $sleep)) -}}
{{- end -}}
{{- toYaml $container -}}
{{- end -}}

{{/* "true" when the sidecar runs as a native sidecar container: it starts before the server and ends after it. */}}
{{- define "auth-sidecar.isNative" -}}
{{- $known := semverCompare ">=1.29-0" .Capabilities.KubeVersion.Version -}}
{{- $wanted := toString .Values.beside.nativeSidecar -}}
{{- if and (eq .Values.shape "beside") (or (eq $wanted "true") (and (eq $wanted "auto") $known)) -}}true{{- end -}}
{{- end -}}
