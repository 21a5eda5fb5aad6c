{{/* What the sidecar's pods may connect to. */}}
{{- define "auth-sidecar.egress" -}}
- ports:
    - {port: 53, protocol: UDP}
    - {port: 53, protocol: TCP}
{{- if .Values.redis.enabled }}
- ports:
    - port: 6379
  to:
    - podSelector:
        matchLabels:
          {{- include "auth-sidecar.componentLabels" (list . "redis") | nindent 10 }}
{{- end }}
{{- with .Values.networkPolicy.egress.rules }}
{{ toYaml . }}
{{- end }}
{{- end -}}
