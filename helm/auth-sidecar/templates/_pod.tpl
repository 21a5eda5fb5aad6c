{{/* The sidecar's container. */}}
{{- define "auth-sidecar.container" -}}
{{- include "auth-sidecar.merged" (list (include "auth-sidecar.ownContainer" .) .Values.containerSpec) -}}
{{- end -}}

{{- define "auth-sidecar.ownContainer" -}}
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
  {{- $probe := dict "httpGet" (dict "path" "/livez" "port" "auth-admin") "periodSeconds" 2 "failureThreshold" 30 }}
  {{- include "auth-sidecar.probe" (list $probe .Values.startupProbe) | nindent 2 }}
livenessProbe:
  {{- $probe = dict "httpGet" (dict "path" "/livez" "port" "auth-admin") "periodSeconds" 10 "timeoutSeconds" 5 "failureThreshold" 3 }}
  {{- include "auth-sidecar.probe" (list $probe .Values.livenessProbe) | nindent 2 }}
readinessProbe:
  {{- $probe = dict "httpGet" (dict "path" "/readyz" "port" "auth-admin") "periodSeconds" 5 "timeoutSeconds" 5 "failureThreshold" 2 }}
  {{- include "auth-sidecar.probe" (list $probe .Values.readinessProbe) | nindent 2 }}
{{- $lifecycle := deepCopy .Values.lifecycle }}
{{- if include "auth-sidecar.isNative" . }}
{{- /*
A native sidecar gets SIGTERM only after the server has ended, and would answer 502 until then. So the drain starts here, at the
same time as the server's own hook. The hook ends with the process.
*/}}
{{- $drain := list "python" "-c" "import os, signal, time; os.kill(1, signal.SIGTERM); time.sleep(86400)" }}
{{- $_ := set $lifecycle "preStop" (dict "exec" (dict "command" $drain)) }}
{{- end }}
{{- with $lifecycle }}
lifecycle:
  {{- toYaml . | nindent 2 }}
{{- end }}
resources:
  {{- toYaml .Values.resources | nindent 2 }}
volumeMounts:
  {{- include "auth-sidecar.volumeMounts" . | nindent 2 }}
{{- end -}}

{{/* A probe with the fields that the values replace; another handler takes the place of httpGet: (list probe values). */}}
{{- define "auth-sidecar.probe" -}}
{{- $probe := index . 0 -}}
{{- $given := index . 1 -}}
{{- if or $given.exec $given.grpc $given.tcpSocket -}}{{- $_ := unset $probe "httpGet" -}}{{- end -}}
{{- include "auth-sidecar.merge" (list $probe (deepCopy $given)) -}}
{{- toYaml $probe -}}
{{- end -}}

{{/* An image by its digest, or else its tag: (list image "default tag"). */}}
{{- define "auth-sidecar.imageName" -}}
{{- $image := index . 0 -}}
{{- $name := ternary (printf "%s/%s" $image.registry $image.repository) $image.repository (ne $image.registry "") -}}
{{- if $image.digest -}}
{{- printf "%s@%s" $name $image.digest -}}
{{- else -}}
{{- printf "%s:%s" $name (default (index . 1) $image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "auth-sidecar.image" -}}
{{- include "auth-sidecar.imageName" (list .Values.image .Chart.AppVersion) -}}
{{- end -}}

{{/* The fields of a pod's spec that the sidecar's pods and the pod of `helm test` have in common. */}}
{{- define "auth-sidecar.podFields" -}}
automountServiceAccountToken: {{ include "auth-sidecar.asksCluster" . | empty | not }}
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- range $name := list "imagePullSecrets" "priorityClassName" "schedulerName" "runtimeClassName" "hostAliases" "dnsPolicy" "dnsConfig" "nodeSelector" "tolerations" }}
{{- with get $.Values $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The spec of the sidecar's pods. */}}
{{- define "auth-sidecar.pod" -}}
{{- include "auth-sidecar.merged" (list (include "auth-sidecar.ownPod" .) .Values.podSpec) -}}
{{- end -}}

{{- define "auth-sidecar.ownPod" -}}
{{- include "auth-sidecar.podFields" . }}
serviceAccountName: {{ include "auth-sidecar.serviceAccountName" . }}
terminationGracePeriodSeconds: {{ include "auth-sidecar.terminationGracePeriodSeconds" . }}
{{- $native := include "auth-sidecar.isNative" . }}
{{- if or .Values.extraInitContainers $native }}
initContainers:
  {{- with .Values.extraInitContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- if $native }}
  - restartPolicy: Always
    {{- include "auth-sidecar.container" . | nindent 4 }}
  {{- end }}
{{- end }}
containers:
  {{- if not $native }}
  - {{- include "auth-sidecar.container" . | nindent 4 }}
  {{- end }}
  {{- if eq .Values.shape "beside" }}
  - {{- include "auth-sidecar.besideContainer" . | nindent 4 }}
  {{- end }}
  {{- with .Values.extraContainers }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
volumes:
  {{- include "auth-sidecar.stateVolume" . | nindent 2 }}
  {{- include "auth-sidecar.volumes" . | nindent 2 }}
  {{- with .Values.beside.volumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
topologySpreadConstraints:
  {{- if .Values.topologySpreadConstraints }}
  {{- toYaml .Values.topologySpreadConstraints | nindent 2 }}
  {{- else }}
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "auth-sidecar.componentLabels" (list $ "sidecar") | nindent 8 }}
  {{- end }}
  {{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* How the Deployment replaces its pods. Two pods of one SQLite file would wait for one volume, or write one file. */}}
{{- define "auth-sidecar.strategy" -}}
{{- $given := deepCopy .Values.strategy -}}
{{- $type := ternary "RollingUpdate" "Recreate" (or (hasKey $given "rollingUpdate") (empty (include "auth-sidecar.usesSqlite" .))) -}}
{{- if eq (default $type $given.type) "Recreate" -}}
{{- $_ := set $given "type" "Recreate" -}}
{{- else -}}
{{- $given = merge $given (dict "type" "RollingUpdate" "rollingUpdate" (dict "maxUnavailable" 0 "maxSurge" 1)) -}}
{{- end -}}
{{- toYaml $given -}}
{{- end -}}

{{- define "auth-sidecar.configMapName" -}}
{{- default (include "auth-sidecar.fullname" .) .Values.existingConfigMap -}}
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
    name: {{ include "auth-sidecar.configMapName" . }}
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
