{{/* The sidecar's configuration: that of the values, with the store if this release runs one. */}}
{{- define "auth-sidecar.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- if .Values.redis.enabled -}}
{{- $store := dict "url" (printf "redis://%s-redis:6379/0" (include "auth-sidecar.fullname" .)) "password" "file:/run/sidecar/redis/password" -}}
{{- $_ := set $config "store" (merge $store ($config.store | default dict)) -}}
{{- end -}}
{{- if and (eq .Values.shape "beside") (not (.Values.beside.container | default dict).readinessProbe) -}}
{{- /* otherwise the pod would be ready, and receive requests, before its server listens */ -}}
{{- $upstream := $config.upstream | default dict -}}
{{- if and $upstream.url (kindIs "invalid" $upstream.waitAtStart) -}}
{{- $_ := set $upstream "waitAtStart" "5m" -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{/* "true" when the store is a SQLite file: the default, and every URL that is not known to be Redis. */}}
{{- define "auth-sidecar.usesSqlite" -}}
{{- $config := include "auth-sidecar.config" . | fromYaml -}}
{{- $url := ($config.store | default dict).url | toString -}}
{{- if not (regexMatch "^rediss?(\\+(sentinel|cluster))?://" $url) -}}true{{- end -}}
{{- end -}}

{{- define "auth-sidecar.publicPort" -}}
{{- .Values.config.server.listen | toString | regexFind "[0-9]+$" -}}
{{- end -}}

{{- define "auth-sidecar.adminPort" -}}
{{- .Values.config.server.adminListen | toString | regexFind "[0-9]+$" -}}
{{- end -}}

{{/* Whole seconds, rounded up, of a duration of the configuration. */}}
{{- define "auth-sidecar.seconds" -}}
{{- $text := toString . -}}
{{- if regexMatch "^[0-9]+(\\.[0-9]+)?$" $text -}}
{{- ceil (float64 $text) | int -}}
{{- else if regexMatch "^([0-9]+(\\.[0-9]+)?(ms|s|m|h))+$" $text -}}
{{- $units := dict "ms" 0.001 "s" 1.0 "m" 60.0 "h" 3600.0 -}}
{{- $sum := 0.0 -}}
{{- range regexFindAll "[0-9.]+(ms|s|m|h)" $text -1 -}}
{{- $sum = addf $sum (mulf (regexFind "[0-9.]+" .) (get $units (regexFind "[a-z]+" .))) -}}
{{- end -}}
{{- ceil $sum | int -}}
{{- else -}}
{{- fail (printf "config.server: the chart cannot read the duration %q; write it as 30s or 1m30s, or set terminationGracePeriodSeconds" $text) -}}
{{- end -}}
{{- end -}}

{{- define "auth-sidecar.drainDelay" -}}
{{- include "auth-sidecar.seconds" (dig "drainDelay" "5s" .Values.config.server) -}}
{{- end -}}

{{/* The drain, 10 seconds to close connections, and with a server in the pod 30 more, Kubernetes' default. */}}
{{- define "auth-sidecar.terminationGracePeriodSeconds" -}}
{{- if kindIs "invalid" .Values.terminationGracePeriodSeconds -}}
{{- $drain := add (include "auth-sidecar.drainDelay" .) (include "auth-sidecar.seconds" (dig "drainTimeout" "30s" .Values.config.server)) -}}
{{- add $drain 10 (ternary 30 0 (eq .Values.shape "beside")) -}}
{{- else -}}
{{- int .Values.terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}

{{/* "true" if a kubernetes authenticator or the secrets manager needs the pod's own token. */}}
{{- define "auth-sidecar.asksCluster" -}}
{{- range (.Values.config.authentication | default dict).authenticators -}}
{{- if eq .type "kubernetes" -}}true{{- end -}}
{{- end -}}
{{- $manager := .Values.config.secretsManagerConfiguration | default dict -}}
{{- if or (eq (toString $manager.secretsManager) "kubernetes") (eq (toString ($manager.parameters | default dict).baoAuthMethod) "kubernetes") -}}true{{- end -}}
{{- end -}}
