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
{{- include "auth-sidecar.vaultEgress" . }}
{{- with .Values.networkPolicy.egress.rules }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Rules for the secrets manager of the configuration. */}}
{{- define "auth-sidecar.vaultEgress" -}}
{{- $manager := .Values.config.secretsManagerConfiguration | default dict -}}
{{- $given := $manager.parameters | default dict -}}
{{- $name := toString $manager.secretsManager -}}
{{- if has $name (list "azure-kv" "managed-azure-kv") }}
# Azure Key Vault and its authority
- ports:
    - port: 443
{{- if not (or $given.clientSecret (index (.Values.podLabels | default dict) "azure.workload.identity/use")) }}
# the metadata service, for a managed identity of the machine
- ports:
    - port: 80
  to:
    - ipBlock: {cidr: 169.254.169.254/32}
{{- end }}
{{- else if has $name (list "openbao" "managed-openbao") }}
# OpenBao
- ports:
    - port: {{ regexFind ":[0-9]+/*$" (toString $given.baoAddress) | trimAll ":/" | default "443" }}
{{- else if eq $name "kubernetes" }}
# the API server: rules apply to the port of its endpoint, which is usually 6443
- ports:
    - port: 443
    - port: 6443
{{- end -}}
{{- end -}}
