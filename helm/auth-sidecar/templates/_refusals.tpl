{{/* Values that would install something broken or unsafe; each fails with what is wrong and how to fix it. */}}
{{- define "auth-sidecar.refusals" -}}
{{- $values := .Values -}}
{{- range $name := list "listen" "adminListen" -}}
{{- $address := get $values.config.server $name | toString -}}
{{- if or (hasPrefix "unix:" $address) (regexMatch "^(127\\.|localhost:|\\[::1\\]:)" $address) (not (regexMatch ":[0-9]+$" $address)) -}}
{{- fail (printf "config.server.%s is %q, which is unreachable from outside the container; use *:<port>" $name $address) -}}
{{- end -}}
{{- end -}}
{{- if and $values.secret.data $values.secret.existingSecret -}}
{{- fail "secret.data and secret.existingSecret are mounted at the same place; set only one of them" -}}
{{- end -}}
{{- if and $values.metrics.podMonitor.enabled $values.metrics.serviceMonitor.enabled -}}
{{- fail "metrics.podMonitor and metrics.serviceMonitor would scrape every pod twice; enable one of them" -}}
{{- end -}}
{{- include "auth-sidecar.secretRefusals" (list "config" $values.config) -}}
{{- include "auth-sidecar.redisRefusals" . -}}
{{- include "auth-sidecar.storeRefusals" . -}}
{{- include "auth-sidecar.shapeRefusals" . -}}
{{- include "auth-sidecar.configMapRefusals" . -}}
{{- if and $values.httpRoute.enabled (not $values.httpRoute.parentRefs) -}}
{{- fail "httpRoute.parentRefs is empty: name the Gateway that the route attaches to" -}}
{{- end -}}
{{- if and $values.lifecycle.preStop (include "auth-sidecar.isNative" .) -}}
{{- fail "lifecycle.preStop: a native sidecar starts its drain with a hook of its own; leave lifecycle.preStop out, or set beside.nativeSidecar to false" -}}
{{- end -}}
{{- end -}}

{{/* With a ConfigMap of another's, the chart cannot write into the configuration. */}}
{{- define "auth-sidecar.configMapRefusals" -}}
{{- if .Values.existingConfigMap -}}
{{- if .Values.redis.enabled -}}
{{- fail "existingConfigMap and redis.enabled: the chart cannot write the store into an existing ConfigMap; remove redis.enabled, and name a Redis of your own there and in config.store.url" -}}
{{- end -}}
{{- $waits := (.Values.config.upstream | default dict).waitAtStart -}}
{{- if and (eq .Values.shape "beside") (not $waits) (not .Values.beside.container.readinessProbe) -}}
{{- fail "existingConfigMap: the chart cannot set upstream.waitAtStart, without which the pod is ready before its server listens; give beside.container a readinessProbe, or set upstream.waitAtStart there and in config" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Literal secrets below a path: (list "config" .Values.config). Many users may read a ConfigMap. */}}
{{- define "auth-sidecar.secretRefusals" -}}
{{- $path := index . 0 -}}
{{- $value := index . 1 -}}
{{- if kindIs "map" $value -}}
{{- range $name, $below := $value -}}
{{- include "auth-sidecar.secretRefusals" (list (printf "%s.%s" $path $name) $below) -}}
{{- end -}}
{{- else if kindIs "slice" $value -}}
{{- range $index, $below := $value -}}
{{- include "auth-sidecar.secretRefusals" (list (printf "%s[%d]" $path $index) $below) -}}
{{- end -}}
{{- else if $value -}}
{{- $names := regexMatch "([Pp]assword|[Ss]ecret|[Ss]alt|signingKey|secrets\\[\\d+\\]|baoToken|baoSecretId|authorization)$" $path -}}
{{- $refers := regexMatch "^(file:/|env:|secret:|\\$\\{\\w+(:-(\"\")?)?\\}$)" (toString $value) -}}
{{- if or (and $names (not $refers)) (regexMatch "://[^/@]*:[^/@]+@|[?&]password=[^&]" (toString $value)) -}}
{{- fail (printf "%s holds a secret, which would be stored in a ConfigMap: write file:/run/sidecar/secrets/<key>, env:NAME or secret:<id> (in an address: leave the password out)" $path) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "auth-sidecar.redisRefusals" -}}
{{- $redis := .Values.redis -}}
{{- if $redis.enabled -}}
{{- if and $redis.password $redis.existingSecret -}}
{{- fail "redis.password and redis.existingSecret are both set; set only one of them" -}}
{{- end -}}
{{- if not (or $redis.password $redis.existingSecret) -}}
{{- fail "redis.enabled needs a password: set redis.existingSecret or redis.password" -}}
{{- end -}}
{{- $store := .Values.config.store | default dict -}}
{{- if or $store.url $store.password $store.username -}}
{{- fail "redis.enabled and config.store name two stores; remove redis.enabled, or url, username and password of config.store" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "auth-sidecar.storeRefusals" -}}
{{- if include "auth-sidecar.usesSqlite" . -}}
{{- if or (gt (int .Values.replicaCount) 1) .Values.autoscaling.enabled -}}
{{- fail "a SQLite store is one pod's alone: with replicaCount above 1 or autoscaling set redis.enabled, or write a redis address into config.store.url (its password goes into config.store.password)" -}}
{{- end -}}
{{- if and (ne .Values.shape "attached") .Values.persistence.enabled (include "auth-sidecar.strategy" . | contains "RollingUpdate") -}}
{{- if or .Values.persistence.existingClaim (ne (join "," .Values.persistence.accessModes) "ReadWriteOnce") -}}
{{- fail "strategy RollingUpdate: with a SQLite store, pods on two nodes could write one file; leave strategy out, or use a store in Redis" -}}
{{- end -}}
{{- end -}}
{{- $url := (.Values.config.store | default dict).url | default "sqlite:////var/lib/sidecar/sidecar.db" | toString -}}
{{- if and (ne .Values.shape "attached") (not (hasPrefix "sqlite:////var/lib/sidecar/" $url)) -}}
{{- fail "config.store.url must be a redis address or below sqlite:////var/lib/sidecar/, where the volume is" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "auth-sidecar.shapeRefusals" -}}
{{- $upstream := (.Values.config.upstream | default dict).url -}}
{{- if ne .Values.shape "standalone" -}}
{{- if not (regexMatch "^(https?://(127(\\.[0-9]+){3}|localhost|\\[::1\\])(:[0-9]+)?/|unix:/)" (printf "%s/" $upstream)) -}}
{{- fail (printf "shape %s: config.upstream.url must name the server in the same pod, such as http://127.0.0.1:8585" .Values.shape) -}}
{{- end -}}
{{- end -}}
{{- if and (eq .Values.shape "beside") (not .Values.beside.container) -}}
{{- fail "shape beside: beside.container must hold the server's container, with name and image at least" -}}
{{- end -}}
{{- if eq .Values.shape "attached" -}}
{{- if not .Values.attached.selector -}}
{{- fail "shape attached: attached.selector must hold the labels of the other chart's pods" -}}
{{- end -}}
{{- if .Values.autoscaling.enabled -}}
{{- fail "shape attached: the other chart scales its pods; leave autoscaling.enabled out" -}}
{{- end -}}
{{- end -}}
{{- end -}}
