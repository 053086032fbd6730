{{- define "bridge.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
At most 52 characters, because the pods of a StatefulSet have its name and a hash in a label. Without dots, which are valid
in the name of a release but not in that of a Service.
*/}}
{{- define "bridge.fullname" -}}
{{- $name := include "bridge.name" . }}
{{- $full := printf "%s-%s" .Release.Name $name }}
{{- if .Values.fullnameOverride }}
{{- $full = .Values.fullnameOverride }}
{{- else if contains $name .Release.Name }}
{{- $full = .Release.Name }}
{{- end }}
{{- $full | replace "." "-" | trunc 52 | trimAll "-" }}
{{- end }}

{{- define "bridge.releaseLabels" -}}
app.kubernetes.io/name: {{ include "bridge.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* Labels of the bridge's pods, and not of the pod of `helm test`. */}}
{{- define "bridge.selectorLabels" -}}
{{ include "bridge.releaseLabels" . }}
app.kubernetes.io/component: bridge
{{- end }}

{{/* Labels of pods. None that changes with the chart's version: that would replace the pods. */}}
{{- define "bridge.podLabels" -}}
{{ include "bridge.releaseLabels" . }}
{{- with merge dict .Values.podLabels .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "bridge.namespace" -}}
{{- default .Release.Namespace .Values.namespaceOverride }}
{{- end }}

{{/*
What the metadata of all objects have in common. `root` is the chart; `name`, `namespace`, `labels` and `annotations` are the
object's own, if it has any. The namespace of the release is not written, so that all tools may choose it.
*/}}
{{- define "bridge.metadata" -}}
name: {{ default (include "bridge.fullname" .root) .name | quote }}
{{- with default .root.Values.namespaceOverride .namespace }}
namespace: {{ quote . }}
{{- end }}
labels:
  {{- include "bridge.labelsAnd" (list .root .labels) | nindent 2 }}
{{- with merge dict (default dict .annotations) .root.Values.commonAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The same, with an object's own labels, which take precedence over `commonLabels`. */}}
{{- define "bridge.labelsAnd" -}}
{{- $own := index . 1 | default dict }}
{{- with index . 0 }}
{{- include "bridge.releaseLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
{{- with merge dict $own .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bridge.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "bridge.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* The repository of the image. A registry given for all charts replaces the one in the repository, if there is one. */}}
{{- define "bridge.repository" -}}
{{- $repository := .Values.image.repository }}
{{- with dig "imageRegistry" "" (default dict .Values.global) | default .Values.image.registry }}
{{- printf "%s/%s" . (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") }}
{{- else }}
{{- $repository }}
{{- end }}
{{- end }}

{{- define "bridge.image" -}}
{{- $image := .Values.image }}
{{- $repository := include "bridge.repository" . }}
{{- if $image.digest }}
{{- printf "%s@%s" $repository $image.digest }}
{{- else }}
{{- printf "%s:%s" $repository (default .Chart.AppVersion $image.tag) }}
{{- end }}
{{- end }}

{{- define "bridge.portOfUrl" -}}
{{- $url := urlParse . }}
{{- regexFind ":[0-9]+$" $url.host | trimPrefix ":" | default (ternary "80" "443" (has $url.scheme (list "ws" "http"))) }}
{{- end }}

{{- define "bridge.httpPort" -}}
{{- dig "http" "port" 9464 .Values.config | int }}
{{- end }}

{{/*
The Secret of an account and its keys. Accounts given as values share one Secret: any account name can be part of a key, but
not of a Secret's name.
*/}}
{{- define "bridge.accountSecret" -}}
{{- default (printf "%s-accounts" (include "bridge.fullname" .root)) .account.existingSecret }}
{{- end }}

{{- define "bridge.apiKeyKey" -}}
{{- if .existingSecret }}{{ default "api-key" .apiKeyKey }}{{ else }}{{ .name }}.api-key{{ end }}
{{- end }}

{{- define "bridge.secretKey" -}}
{{- if .existingSecret }}{{ default "secret" .secretKey }}{{ else }}{{ .name }}.secret{{ end }}
{{- end }}

{{- define "bridge.passwordSecret" -}}
{{- default (printf "%s-kafka" (include "bridge.fullname" .)) .Values.kafkaPassword.existingSecret }}
{{- end }}

{{- define "bridge.hasPassword" -}}
{{- if or .Values.kafkaPassword.existingSecret .Values.kafkaPassword.value }}true{{ end }}
{{- end }}

{{- define "bridge.registrySecret" -}}
{{- default (printf "%s-schema-registry" (include "bridge.fullname" .)) .Values.schemaRegistryPassword.existingSecret }}
{{- end }}

{{- define "bridge.hasRegistryPassword" -}}
{{- if or .Values.schemaRegistryPassword.existingSecret .Values.schemaRegistryPassword.value }}true{{ end }}
{{- end }}

{{/* A quantity like 512Mi or 2G, in bytes. The API server writes fractions of a byte as thousandths: 2.3Gi is 2469606195200m. */}}
{{- define "bridge.bytes" -}}
{{- $units := dict "m" 0.001 "" 1 "k" 1000 "M" 1000000 "G" 1000000000 "T" 1000000000000 "P" 1000000000000000 }}
{{- $units = merge $units (dict "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 "Pi" 1125899906842624) }}
{{- $text := kindIs "string" . | ternary . (int64 . | toString) }}
{{- mulf (regexFind "^[0-9.]+" $text | float64) (get $units (regexFind "[A-Za-z]*$" $text)) | int64 }}
{{- end }}

{{/*
Checks that a JSON schema cannot express. The bridge would find most of these errors, too, but only once a pod has been
replaced.
*/}}
{{- define "bridge.validate" -}}
{{- $values := .Values }}
{{- if not (or (compact (values (default dict $values.config.channels))) $values.accounts) }}
{{- fail "nothing to subscribe to: set config.channels or accounts" }}
{{- end }}
{{- $names := list }}
{{- range $values.accounts }}
{{- if has .name $names }}
{{- fail (printf "accounts: the name %s is used twice" .name) }}
{{- end }}
{{- $names = append $names .name }}
{{- end }}
{{- $full := include "bridge.fullname" . }}
{{- if regexMatch "^[0-9]" $full }}
{{- fail (printf "fullnameOverride: must be set, because the name %s does not start with a letter, as the name of a Service must" $full) }}
{{- end }}
{{- $exchange := default dict $values.config.exchange }}
{{- $patience := addf (get $exchange "ping_interval" | default 15.0) (get $exchange "reply_timeout" | default 10.0) }}
{{- if ge $patience 60.0 }}
{{- fail (printf "config.exchange: ping_interval plus reply_timeout is %v s, but the exchange disconnects a client that is silent for 60 s" $patience) }}
{{- end }}
{{- $least := get $exchange "reconnect_min" | default 0.5 | float64 }}
{{- $most := get $exchange "reconnect_max" | default 30.0 | float64 }}
{{- if gt $least $most }}
{{- fail (printf "config.exchange.reconnect_min: %v is greater than reconnect_max, %v" $least $most) }}
{{- end }}
{{- if and $values.accounts (regexMatch "^ws://" (get $exchange "url")) }}
{{- fail "config.exchange.url: must be wss:// if there are accounts, because ws:// sends their keys unencrypted" }}
{{- end }}
{{- $kafka := $values.config.kafka }}
{{- $flush := get $kafka "flush_interval" | default 0.01 | float64 }}
{{- $commit := get $kafka "commit_interval" | default 0.1 | float64 }}
{{- $timeout := get $kafka "transaction_timeout" | default 10.0 | float64 }}
{{- if or (lt $commit $flush) (ge $commit $timeout) }}
{{- fail (printf "config.kafka.commit_interval: %v must be at least flush_interval, %v, and less than transaction_timeout, %v" $commit $flush $timeout) }}
{{- end }}
{{- $protocol := get $kafka "security_protocol" | default "PLAINTEXT" }}
{{- if and (include "bridge.hasPassword" .) (not (hasPrefix "SASL_" $protocol)) }}
{{- fail (printf "kafkaPassword has no effect with config.kafka.security_protocol %s" $protocol) }}
{{- end }}
{{- range $family := list "sasl" "ssl" }}
{{- range $key := keys $kafka | sortAlpha }}
{{- if and (hasPrefix (print $family "_") $key) (not (contains (upper $family) $protocol)) }}
{{- fail (printf "config.kafka.%s has no effect with security_protocol %s" $key $protocol) }}
{{- end }}
{{- end }}
{{- end }}
{{- $identity := include "bridge.identity" . }}
{{- $usernameKey := $values.kafkaPassword.usernameKey }}
{{- if and $usernameKey (not $values.kafkaPassword.existingSecret) }}
{{- fail "kafkaPassword.usernameKey needs kafkaPassword.existingSecret" }}
{{- end }}
{{- if and $usernameKey (get $kafka $identity) }}
{{- fail (printf "kafkaPassword.usernameKey and config.kafka.%s: set one of them" $identity) }}
{{- end }}
{{- if and (include "bridge.hasPassword" .) (not (get $kafka $identity)) (not $usernameKey) }}
{{- fail (printf "kafkaPassword needs config.kafka.%s, or kafkaPassword.usernameKey" $identity) }}
{{- end }}
{{- /* The environment may supply what is missing here. */}}
{{- $isOfAws := eq (get $kafka "sasl_mechanism" | default "") "AWS_MSK_IAM" }}
{{- if and (hasPrefix "SASL_" $protocol) (not (or $isOfAws $values.extraEnv $values.extraEnvFrom)) }}
{{- range $key := list "sasl_mechanism" $identity }}
{{- if not (or (get $kafka $key) (and $usernameKey (eq $key $identity))) }}
{{- fail (printf "config.kafka.security_protocol %s needs config.kafka.%s" $protocol $key) }}
{{- end }}
{{- end }}
{{- if not (include "bridge.hasPassword" .) }}
{{- fail (printf "config.kafka.security_protocol %s needs kafkaPassword" $protocol) }}
{{- end }}
{{- end }}
{{- if and (or $values.kafkaTls.ca.existingSecret $values.kafkaTls.client.existingSecret) (not (hasSuffix "SSL" $protocol)) }}
{{- fail (printf "kafkaTls has no effect with config.kafka.security_protocol %s" $protocol) }}
{{- end }}
{{- include "bridge.validateRegistry" . }}
{{- include "bridge.validateNames" . }}
{{- if and (eq $values.dnsPolicy "None") (not $values.dnsConfig.nameservers) }}
{{- fail "dnsPolicy: None needs dnsConfig.nameservers" }}
{{- end }}
{{- with $values.autoscaling }}
{{- if and .enabled (gt (int .minReplicas) (int .maxReplicas)) }}
{{- fail (printf "autoscaling.minReplicas: %v is greater than maxReplicas, %v" .minReplicas .maxReplicas) }}
{{- end }}
{{- end }}
{{- with $values.autoscaling }}
{{- if and .enabled (not (or .targetCPUUtilizationPercentage .metrics)) }}
{{- fail "autoscaling: needs targetCPUUtilizationPercentage or metrics" }}
{{- end }}
{{- end }}
{{- if and $values.podMonitor.enabled $values.serviceMonitor.enabled }}
{{- fail "podMonitor and serviceMonitor: enable one of them, or each pod is scraped twice" }}
{{- end }}
{{- range $name := list "podMonitor" "serviceMonitor" }}
{{- with get $values $name }}
{{- if gt (trimSuffix "s" .scrapeTimeout | default "0" | int) (trimSuffix "s" .interval | int) }}
{{- fail (printf "%s.scrapeTimeout: %s is longer than the interval, %s" $name .scrapeTimeout .interval) }}
{{- end }}
{{- end }}
{{- end }}
{{- if $values.spool.existingClaim }}
{{- if not $values.spool.persistent }}
{{- fail "spool.existingClaim has no effect with spool.persistent: false" }}
{{- end }}
{{- if or $values.autoscaling.enabled (gt (int $values.replicas) 1) }}
{{- fail "spool.existingClaim: is for one replica, because replicas must not share a spool" }}
{{- end }}
{{- end }}
{{- $spool := dig "spool" "max_bytes" 1073741824 $values.config | int64 }}
{{- if le (include "bridge.bytes" $values.spool.size | int64) $spool }}
{{- fail (printf "spool.size: %s must be more than config.spool.max_bytes, %d" $values.spool.size $spool) }}
{{- end }}
{{- $shards := dig "kafka" "shards" 1 $values.config | int64 }}
{{- $pending := dig "kafka" "max_pending_bytes" 33554432 $values.config | int64 }}
{{- with dig "limits" "memory" "" $values.resources }}
{{- if lt (include "bridge.bytes" . | int64) (add 100000000 (div (mul 3 $shards $pending) 2)) }}
{{- fail (printf "resources.limits.memory: %v is less than 100M plus 1.5 times config.kafka.max_pending_bytes for each of %d shards, which one pod may have to serve" . $shards) }}
{{- end }}
{{- $request := dig "requests" "memory" "0" $values.resources }}
{{- if lt (include "bridge.bytes" . | int64) (include "bridge.bytes" $request | int64) }}
{{- fail (printf "resources.limits.memory: %v is less than resources.requests.memory, %v" . $request) }}
{{- end }}
{{- end }}
{{- include "bridge.validateShards" . }}
{{- include "bridge.validateUpgrade" . }}
{{- end }}

{{/*
Names that have to be unique. The API server would refuse the StatefulSet when the configuration has changed already; and of
variables, an upgrade by Helm may drop the wrong one.
*/}}
{{- define "bridge.validateNames" -}}
{{- $variables := list }}
{{- if .Values.kafkaPassword.usernameKey }}
{{- $variables = append $variables (printf "BRIDGE_KAFKA__%s" (include "bridge.identity" . | upper)) }}
{{- end }}
{{- if .Values.schemaRegistryPassword.usernameKey }}
{{- $variables = append $variables "BRIDGE_SCHEMA_REGISTRY__USERNAME" }}
{{- end }}
{{- $taken := dict "variable" $variables "volume" (list "config" "spool") "container" (list "bridge" "check") }}
{{- $_ := set $taken "mount at" (list "/etc/digifinex-bridge" "/var/lib/digifinex-bridge") }}
{{- $kinds := dict "extraEnv" "variable" "extraVolumes" "volume" "extraVolumeMounts" "mount at" }}
{{- $kinds = merge $kinds (dict "extraContainers" "container" "initContainers" "container") }}
{{- range $key, $kind := $kinds }}
{{- range get $.Values $key }}
{{- $name := ternary (trimSuffix "/" (default "" .mountPath)) .name (eq $key "extraVolumeMounts") }}
{{- if has $name (get $taken $kind) }}
{{- fail (printf "%s: there is a %s %s already" $key $kind $name) }}
{{- end }}
{{- $_ := set $taken $kind (append (get $taken $kind) $name) }}
{{- end }}
{{- end }}
{{- range .Values.extraVolumeMounts }}
{{- if not (has .name (get $taken "volume")) }}
{{- fail (printf "extraVolumeMounts: there is no volume %s in extraVolumes" .name) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bridge.validateRegistry" -}}
{{- $registry := default dict .Values.config.schema_registry }}
{{- $password := include "bridge.hasRegistryPassword" . }}
{{- $usernameKey := .Values.schemaRegistryPassword.usernameKey }}
{{- $ca := .Values.schemaRegistryTls.ca.existingSecret }}
{{- /* The environment may supply what is missing here. */}}
{{- $isWhole := not (or .Values.extraEnv .Values.extraEnvFrom) }}
{{- if and $usernameKey (not .Values.schemaRegistryPassword.existingSecret) }}
{{- fail "schemaRegistryPassword.usernameKey needs schemaRegistryPassword.existingSecret" }}
{{- end }}
{{- if and $usernameKey $registry.username }}
{{- fail "schemaRegistryPassword.usernameKey and config.schema_registry.username: set one of them" }}
{{- end }}
{{- if and $password $isWhole (not (or $registry.username $usernameKey)) }}
{{- fail "schemaRegistryPassword needs config.schema_registry.username, or schemaRegistryPassword.usernameKey" }}
{{- end }}
{{- if and $registry.username $isWhole (not $password) }}
{{- fail "config.schema_registry.username needs schemaRegistryPassword" }}
{{- end }}
{{- if and (or $password $ca) $isWhole (not $registry.url) }}
{{- fail (printf "%s has no effect without config.schema_registry.url" (ternary "schemaRegistryPassword" "schemaRegistryTls" (not (empty $password)))) }}
{{- end }}
{{- $url := default "" $registry.url }}
{{- if and $ca (hasPrefix "http://" $url) }}
{{- fail "schemaRegistryTls has no effect with http:// in config.schema_registry.url" }}
{{- end }}
{{- if and $password (regexMatch "^http://" $url) (not (regexMatch "^http://(localhost|127[.0-9]+|\\[::1\\])(:|/|$)" $url)) }}
{{- fail "config.schema_registry.url: must begin with https://, because http:// sends the password unencrypted" }}
{{- end }}
{{- end }}

{{/*
The number of shards is that of the state on Kafka: pods with another number serve nothing, and a rollout would stop at the
first of them. Without a cluster, as with `helm template`, nothing is found.
*/}}
{{- define "bridge.validateShards" -}}
{{- $name := include "bridge.fullname" . }}
{{- $namespace := include "bridge.namespace" . }}
{{- $kafka := .Values.config.kafka }}
{{- $wanted := get $kafka "shards" | default 1 | int64 }}
{{- $file := dig "data" "bridge.toml" "" (lookup "v1" "ConfigMap" $namespace $name) }}
{{- $pods := dig "status" "replicas" 0 (lookup "apps/v1" "StatefulSet" $namespace $name) | int64 }}
{{- if and $file $pods }}
{{- $found := regexFind "(?m)^shards = [0-9]+$" $file | trimPrefix "shards = " | default "1" | int64 }}
{{- if lt $wanted $found }}
{{- fail (printf "config.kafka.shards: %d, and %d pods run with %d: the number of shards cannot be reduced" $wanted $pods $found) }}
{{- end }}
{{- if gt $wanted $found }}
{{- $topic := printf "%s.bridge-state" (get $kafka "topic_prefix" | default "digifinex") }}
{{- $scale := printf "kubectl --namespace %s scale statefulset/%s --replicas 0" $namespace $name }}
{{- $alter := printf "kafka-topics.sh --bootstrap-server %v --alter --topic %s --partitions %d" $kafka.bootstrap_servers $topic $wanted }}
{{- fail (printf "config.kafka.shards: %d, and %d pods run with %d. Once their spools are empty, run: %s && %s; then this upgrade again" $wanted $pods $found $scale $alter) }}
{{- end }}
{{- end }}
{{- end }}

{{- define "bridge.deployed" -}}
{{- lookup "apps/v1" "StatefulSet" (include "bridge.namespace" .) (include "bridge.fullname" .) | toJson }}
{{- end }}

{{/*
What Kubernetes cannot change in a StatefulSet is refused before anything has changed: Helm would have written the new
configuration already when the API server refuses the StatefulSet. Without a cluster, nothing is found.
*/}}
{{- define "bridge.validateUpgrade" -}}
{{- $old := (include "bridge.deployed" . | fromJson).spec }}
{{- if $old }}
{{- $wanted := list }}
{{- $claim := include "bridge.claim" . | fromYaml }}
{{- $claims := $old.volumeClaimTemplates | default list }}
{{- if ne (empty $claims) (empty (include "bridge.claims" .)) }}
{{- $wanted = list "spool.persistent or spool.existingClaim" }}
{{- else if $claims }}
{{- $found := first $claims }}
{{- $size := $found.spec.resources.requests.storage }}
{{- if ne (include "bridge.bytes" $size) (include "bridge.bytes" .Values.spool.size) }}
{{- $wanted = append $wanted (printf "spool.size (from %v to %s)" $size .Values.spool.size) }}
{{- end }}
{{- range $key := list "storageClassName" "accessModes" }}
{{- if ne (pick $found.spec $key | toJson) (pick $claim.spec $key | toJson) }}
{{- $wanted = append $wanted (printf "spool.%s" $key) }}
{{- end }}
{{- end }}
{{- if ne ($found.metadata.annotations | default dict | toJson) ($claim.metadata.annotations | default dict | toJson) }}
{{- $wanted = append $wanted "spool.annotations" }}
{{- end }}
{{- end }}
{{- with $wanted }}
{{- fail (printf "%s: Kubernetes cannot change that in place. See \"Spool volumes\" in docs/kubernetes.md" (join ", " .)) }}
{{- end }}
{{- if ne (toJson $old.selector.matchLabels) (include "bridge.selectorLabels" . | fromYaml | toJson) }}
{{- $wanted = append $wanted "nameOverride" }}
{{- end }}
{{- $limit := dig "revisionHistoryLimit" 10 $old | int }}
{{- if and (semverCompare "<1.34.0-0" .Capabilities.KubeVersion.Version) (ne $limit (int .Values.revisionHistoryLimit)) }}
{{- $wanted = append $wanted (printf "revisionHistoryLimit (from %d to %v)" $limit .Values.revisionHistoryLimit) }}
{{- end }}
{{- with $wanted }}
{{- fail (printf "%s: Kubernetes cannot change that in place. See \"Upgrade\" in docs/kubernetes.md" (join ", " .)) }}
{{- end }}
{{- end }}
{{- end }}

{{/*
The number of replicas to write. With an autoscaler it is the present one, within the limits: a number that is left out, but
was in the release before, would become 1. Nothing without a cluster, so that a rendered manifest never contradicts the
autoscaler.
*/}}
{{- define "bridge.replicas" -}}
{{- $scaling := .Values.autoscaling }}
{{- if not $scaling.enabled }}
{{- .Values.replicas }}
{{- else }}
{{- with (include "bridge.deployed" . | fromJson).spec }}
{{- dig "replicas" 1 . | int | max (int $scaling.minReplicas) | min (int $scaling.maxReplicas) }}
{{- end }}
{{- end }}
{{- end }}

{{/* The secrets that are given as values, to notice a change. */}}
{{- define "bridge.givenSecrets" -}}
{{- $given := list }}
{{- range .Values.accounts }}
{{- if not .existingSecret }}
{{- $given = append $given (pick . "name" "apiKey" "secret") }}
{{- end }}
{{- end }}
{{- if not .Values.kafkaPassword.existingSecret }}
{{- $given = append $given .Values.kafkaPassword.value }}
{{- end }}
{{- if and .Values.schemaRegistryPassword.value (not .Values.schemaRegistryPassword.existingSecret) }}
{{- $given = append $given .Values.schemaRegistryPassword.value }}
{{- end }}
{{- toJson $given }}
{{- end }}

{{/*
The TOML file. Scalars and lists of scalars are written the same in JSON and in TOML.
*/}}
{{- define "bridge.toml" -}}
{{- $secrets := "/etc/digifinex-bridge/secrets" }}
{{- $kafka := deepCopy (default dict .Values.config.kafka) }}
{{- if include "bridge.hasPassword" . }}
{{- $secret := ternary "sasl_oauth_client_secret_file" "sasl_plain_password_file" (eq (get $kafka "sasl_mechanism" | default "") "OAUTHBEARER") }}
{{- $_ := set $kafka $secret (printf "%s/kafka/password" $secrets) }}
{{- end }}
{{- if .Values.kafkaTls.ca.existingSecret }}
{{- $_ := set $kafka "ssl_cafile" (printf "%s/kafka-ca/ca.crt" $secrets) }}
{{- end }}
{{- with .Values.kafkaTls.client }}
{{- if .existingSecret }}
{{- $_ := set $kafka "ssl_certfile" (printf "%s/kafka-client/tls.crt" $secrets) }}
{{- $_ := set $kafka "ssl_keyfile" (printf "%s/kafka-client/tls.key" $secrets) }}
{{- if .passwordKey }}
{{- $_ := set $kafka "ssl_password_file" (printf "%s/kafka-client/password" $secrets) }}
{{- end }}
{{- end }}
{{- end }}
{{- $config := set (deepCopy .Values.config) "kafka" $kafka }}
{{- if .Values.exchangeTls.ca.existingSecret }}
{{- $cafile := dict "ssl_cafile" (printf "%s/exchange-ca/ca.crt" $secrets) }}
{{- $_ := set $config "exchange" (merge $cafile (default dict $config.exchange)) }}
{{- end }}
{{- $registry := deepCopy (default dict $config.schema_registry) }}
{{- if include "bridge.hasRegistryPassword" . }}
{{- $_ := set $registry "password_file" (printf "%s/schema-registry/password" $secrets) }}
{{- end }}
{{- if .Values.schemaRegistryTls.ca.existingSecret }}
{{- $_ := set $registry "ssl_cafile" (printf "%s/schema-registry-ca/ca.crt" $secrets) }}
{{- end }}
{{- $_ := set $config "schema_registry" $registry }}
{{- $_ := set $config "http" (merge (dict "port" (include "bridge.httpPort" . | int)) (default dict $config.http)) }}
{{- range $section, $keys := $config }}
{{- if $keys }}
[{{ $section }}]
{{- range $key, $value := $keys }}
{{ $key }} = {{ toJson $value }}
{{- end }}
{{ end }}
{{- end }}
{{- range $account := .Values.accounts }}
[[accounts]]
name = {{ toJson $account.name }}
api_key_file = {{ toJson (printf "%s/account-%s/api-key" $secrets $account.name) }}
secret_file = {{ toJson (printf "%s/account-%s/secret" $secrets $account.name) }}
{{- /* All other keys are channels; the schema says which there are. */}}
{{- range $channel, $symbols := omit $account "name" "existingSecret" "apiKeyKey" "secretKey" "apiKey" "secret" }}
{{- with $symbols }}
{{ $channel }} = {{ toJson . }}
{{- end }}
{{- end }}
{{ end }}
{{- end }}

{{/*
What the bridge's pods and the pod of `helm test` have in common besides their containers: who they run as, where, and what
names and addresses they know.
*/}}
{{- define "bridge.pod" -}}
serviceAccountName: {{ include "bridge.serviceAccountName" . | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.podSecurityContext }}
securityContext:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.hostAliases }}
hostAliases:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.dnsPolicy }}
dnsPolicy: {{ quote . }}
{{- end }}
{{- with .Values.dnsConfig }}
dnsConfig:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ quote . }}
{{- end }}
{{- with .Values.schedulerName }}
schedulerName: {{ quote . }}
{{- end }}
{{- with .Values.initContainers }}
initContainers:
  {{- tpl (toYaml .) $ | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ quote . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* What a PodMonitor and a ServiceMonitor have in common, from the values of either. */}}
{{- define "bridge.scrape" -}}
interval: {{ .interval | quote }}
{{- with .scrapeTimeout }}
scrapeTimeout: {{ quote . }}
{{- end }}
{{- with .relabelings }}
relabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .metricRelabelings }}
metricRelabelings:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* The key of the configuration for the name that belongs to `kafkaPassword`. */}}
{{- define "bridge.identity" -}}
{{- ternary "sasl_oauth_client_id" "sasl_plain_username" (eq (get .Values.config.kafka "sasl_mechanism" | default "") "OAUTHBEARER") }}
{{- end }}

{{- define "bridge.env" -}}
{{- $key := .Values.kafkaPassword.usernameKey }}
{{- $registryKey := .Values.schemaRegistryPassword.usernameKey }}
{{- if or $key $registryKey .Values.extraEnv }}
env:
  {{- if $key }}
  - name: BRIDGE_KAFKA__{{ include "bridge.identity" . | upper }}
    valueFrom:
      secretKeyRef:
        name: {{ include "bridge.passwordSecret" . | quote }}
        key: {{ quote $key }}
  {{- end }}
  {{- if $registryKey }}
  - name: BRIDGE_SCHEMA_REGISTRY__USERNAME
    valueFrom:
      secretKeyRef:
        name: {{ include "bridge.registrySecret" . | quote }}
        key: {{ quote $registryKey }}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- with .Values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "bridge.volumeMounts" -}}
- name: config
  mountPath: /etc/digifinex-bridge
  readOnly: true
{{- end }}

{{/* Whether the StatefulSet makes a claim for each pod. */}}
{{- define "bridge.claims" -}}
{{- if and .Values.spool.persistent (not .Values.spool.existingClaim) }}true{{ end }}
{{- end }}

{{- define "bridge.claim" -}}
metadata:
  name: spool
  labels:
    {{- include "bridge.selectorLabels" . | nindent 4 }}
  {{- with .Values.spool.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  accessModes:
    {{- toYaml .Values.spool.accessModes | nindent 4 }}
  {{- with .Values.spool.storageClassName }}
  storageClassName: {{ ternary "" . (eq . "-") | quote }}
  {{- end }}
  resources:
    requests:
      storage: {{ .Values.spool.size | quote }}
{{- end }}

{{- define "bridge.volumes" -}}
- name: config
  projected:
    defaultMode: 0440
    sources:
      - configMap:
          name: {{ include "bridge.fullname" . | quote }}
      {{- range .Values.accounts }}
      - secret:
          name: {{ include "bridge.accountSecret" (dict "root" $ "account" .) | quote }}
          items:
            - key: {{ include "bridge.apiKeyKey" . | quote }}
              path: {{ printf "secrets/account-%s/api-key" .name | quote }}
            - key: {{ include "bridge.secretKey" . | quote }}
              path: {{ printf "secrets/account-%s/secret" .name | quote }}
      {{- end }}
      {{- if include "bridge.hasPassword" . }}
      - secret:
          name: {{ include "bridge.passwordSecret" . | quote }}
          items:
            - key: {{ .Values.kafkaPassword.key | quote }}
              path: secrets/kafka/password
      {{- end }}
      {{- with .Values.kafkaTls.ca }}
      {{- if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items:
            - key: {{ .key | quote }}
              path: secrets/kafka-ca/ca.crt
      {{- end }}
      {{- end }}
      {{- with .Values.exchangeTls.ca }}
      {{- if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items:
            - key: {{ .key | quote }}
              path: secrets/exchange-ca/ca.crt
      {{- end }}
      {{- end }}
      {{- if include "bridge.hasRegistryPassword" . }}
      - secret:
          name: {{ include "bridge.registrySecret" . | quote }}
          items:
            - key: {{ .Values.schemaRegistryPassword.key | quote }}
              path: secrets/schema-registry/password
      {{- end }}
      {{- with .Values.schemaRegistryTls.ca }}
      {{- if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items:
            - key: {{ .key | quote }}
              path: secrets/schema-registry-ca/ca.crt
      {{- end }}
      {{- end }}
      {{- with .Values.kafkaTls.client }}
      {{- if .existingSecret }}
      - secret:
          name: {{ .existingSecret | quote }}
          items:
            - key: {{ .certificateKey | quote }}
              path: secrets/kafka-client/tls.crt
            - key: {{ .privateKeyKey | quote }}
              path: secrets/kafka-client/tls.key
            {{- with .passwordKey }}
            - key: {{ quote . }}
              path: secrets/kafka-client/password
            {{- end }}
      {{- end }}
      {{- end }}
{{- end }}
