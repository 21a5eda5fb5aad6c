{{/*
Configuration of Redis. Only the digest of the password is written, to memory. Revocation entries must never be evicted.
*/}}
{{- define "auth-sidecar.redisFiles" -}}
redis.conf: |
  port 6379
  dir /data
  aclfile /run/redis/users.acl
  appendonly yes
  appendfsync {{ .Values.redis.appendfsync }}
  save ""
  maxmemory-policy noeviction
start.sh: |
  set -eu
  umask 077
  password="$(cat /run/secrets/redis/password)"
  test -n "$password"
  digest="$(printf %s "$password" | sha256sum | cut -d ' ' -f 1)"
  echo "user default on #$digest ~* &* +@all -@admin -@dangerous +info" > /run/redis/users.acl
  exec redis-server /etc/redis/redis.conf
{{- end -}}
