{{/* The spec of the public Service, before service.spec is merged into it. */}}
{{- define "auth-sidecar.serviceSpec" -}}
{{- $service := .Values.service -}}
type: {{ $service.type }}
{{ include "auth-sidecar.ipFamilies" . }}
{{- range $name := list "loadBalancerClass" "loadBalancerSourceRanges" "externalTrafficPolicy" }}
{{- with get $service $name }}
{{ $name }}: {{ toJson . }}
{{- end }}
{{- end }}
selector:
  {{- include "auth-sidecar.targetLabels" . | nindent 2 }}
ports:
  - name: http
    port: {{ $service.port }}
    targetPort: auth
    {{- with $service.nodePort }}
    nodePort: {{ . }}
    {{- end }}
{{- end -}}

{{/* The address families of every Service of the release. */}}
{{- define "auth-sidecar.ipFamilies" -}}
{{- range $name := list "ipFamilyPolicy" "ipFamilies" -}}
{{- with get $.Values.service $name }}
{{ $name }}: {{ toJson . }}
{{- end -}}
{{- end -}}
{{- end -}}
