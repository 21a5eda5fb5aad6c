{{/*
Merges a map of values into a map of the chart, in place: (list target values). Maps are merged. Of two lists whose elements
have keys (mountPath, containerPort or name), elements with one key are merged and the others are appended. Any other value
replaces the chart's, and null removes it.
*/}}
{{- define "auth-sidecar.merge" -}}
{{- $target := index . 0 -}}
{{- range $name, $value := index . 1 -}}
{{- $present := get $target $name -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $target $name -}}
{{- else if and (kindIs "map" $value) (kindIs "map" $present) -}}
{{- include "auth-sidecar.merge" (list $present $value) -}}
{{- else if and (kindIs "slice" $value) (kindIs "slice" $present) (include "auth-sidecar.mergeKey" (first $value)) -}}
{{- $all := $present -}}
{{- range $element := $value -}}
{{- $key := include "auth-sidecar.mergeKey" $element -}}
{{- $same := dict -}}
{{- range $one := $all -}}
{{- if and $key (eq $key (include "auth-sidecar.mergeKey" $one)) -}}{{- $same = $one -}}{{- end -}}
{{- end -}}
{{- if $same -}}
{{- include "auth-sidecar.merge" (list $same $element) -}}
{{- else -}}
{{- $all = append $all $element -}}
{{- end -}}
{{- end -}}
{{- $_ := set $target $name $all -}}
{{- else -}}
{{- $_ := set $target $name $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* What tells an element of a list from the others; empty if nothing does. */}}
{{- define "auth-sidecar.mergeKey" -}}
{{- if kindIs "map" . -}}
{{- if .mountPath -}}{{ printf "%s %s" .mountPath (default "" .subPath) }}
{{- else -}}{{ default .name .containerPort }}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A map as YAML, with values merged into it: (list "text of the map" values). */}}
{{- define "auth-sidecar.merged" -}}
{{- $target := index . 0 | fromYaml -}}
{{- if hasKey $target "Error" -}}{{- fail (printf "the chart made invalid YAML: %s" $target.Error) -}}{{- end -}}
{{- include "auth-sidecar.merge" (list $target (deepCopy (index . 1))) -}}
{{- toYaml $target -}}
{{- end -}}
