{{- define "auth-sidecar.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* Name of the objects; at most 52 characters, so that the longest suffix fits. */}}
{{- define "auth-sidecar.fullname" -}}
{{- $name := include "auth-sidecar.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "auth-sidecar.serviceAccountName" -}}
{{- $own := ternary (include "auth-sidecar.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $own .Values.serviceAccount.name -}}
{{- end -}}

{{- define "auth-sidecar.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
app.kubernetes.io/name: {{ include "auth-sidecar.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Labels of one kind of this release's pods only: (list . "sidecar"). */}}
{{- define "auth-sidecar.componentLabels" -}}
{{- $context := index . 0 -}}
app.kubernetes.io/name: {{ include "auth-sidecar.name" $context }}
app.kubernetes.io/instance: {{ $context.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end -}}

{{/* Labels of the pods that the sidecar runs in, of this chart or another. */}}
{{- define "auth-sidecar.targetLabels" -}}
{{- if eq .Values.shape "attached" -}}
{{- toYaml .Values.attached.selector -}}
{{- else -}}
{{- include "auth-sidecar.componentLabels" (list . "sidecar") -}}
{{- end -}}
{{- end -}}

{{/*
A checksum that changes with a secret text and does not reveal it to users who can read pods but not Secrets: scrypt makes
each guess expensive. (list . "text")
*/}}
{{- define "auth-sidecar.secretChecksum" -}}
{{- $context := index . 0 -}}
{{- derivePassword 1 "maximum" (index . 1) $context.Release.Namespace (include "auth-sidecar.fullname" $context) | sha256sum -}}
{{- end -}}
