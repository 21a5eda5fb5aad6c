{{/* The spec of Redis' pod. */}}
{{- define "auth-sidecar.redisPod" -}}
{{- include "auth-sidecar.merged" (list (include "auth-sidecar.redisOwnPod" .) .Values.redis.podSpec) -}}
{{- end -}}

{{- define "auth-sidecar.redisOwnPod" -}}
{{- $redis := .Values.redis -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- range $name := list "imagePullSecrets" "nodeSelector" "tolerations" }}
{{- with get $.Values $name }}
{{ $name }}:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
containers:
  - {{- include "auth-sidecar.merged" (list (include "auth-sidecar.redisContainer" .) $redis.containerSpec) | nindent 4 }}
volumes:
  - name: config
    configMap:
      name: {{ include "auth-sidecar.fullname" . }}-redis
  - name: password
    secret:
      {{- include "auth-sidecar.redisSecret" . | nindent 6 }}
  - name: run
    emptyDir: {medium: Memory, sizeLimit: 1Mi}
  {{- if not $redis.persistence.enabled }}
  - name: data
    emptyDir: {}
  {{- end }}
{{- end -}}

{{- define "auth-sidecar.redisContainer" -}}
{{- $redis := .Values.redis -}}
name: redis
image: {{ include "auth-sidecar.imageName" (list $redis.image "") }}
imagePullPolicy: {{ $redis.image.pullPolicy }}
command: [sh, /etc/redis/start.sh]
securityContext:
  {{- toYaml .Values.securityContext | nindent 2 }}
ports:
  - name: redis
    containerPort: 6379
startupProbe:
  tcpSocket: {port: redis}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  tcpSocket: {port: redis}
readinessProbe:
  exec:
    {{- /* PONG means that the data is loaded and the password is correct */}}
    command: [sh, -c, 'REDISCLI_AUTH="$(cat /run/secrets/redis/password)" redis-cli ping | grep -q PONG']
  timeoutSeconds: 5
resources:
  {{- toYaml $redis.resources | nindent 2 }}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: run, mountPath: /run/redis}
  - {name: config, mountPath: /etc/redis, readOnly: true}
  - {name: password, mountPath: /run/secrets/redis, readOnly: true}
{{- end -}}
