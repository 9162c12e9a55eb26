{{/*
What every template begins with. An entry that is null is taken away, wherever a map has it: so a later file of values removes
what an earlier one has. Helm itself does that with entries of values.yaml only.
*/}}
{{- define "bridgehead.begin" -}}
{{- if not (hasKey .Values "begun") -}}
{{- include "bridgehead.dropNulls" .Values -}}
{{- $_ := set .Values "begun" true -}}
{{- end -}}
{{- end -}}

{{- define "bridgehead.dropNulls" -}}
{{- range $key, $value := . -}}
{{- if kindIs "invalid" $value -}}
{{- $_ := unset $ $key -}}
{{- else if kindIs "map" $value -}}
{{- include "bridgehead.dropNulls" $value -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Names and labels */}}
{{- define "bridgehead.name" -}}
{{- include "bridgehead.cut" (dict "text" (default .Chart.Name .Values.nameOverride) "size" 40) -}}
{{- end -}}

{{/* At most 40 characters: names of Services are this and up to 22 more. */}}
{{- define "bridgehead.fullname" -}}
{{- $name := include "bridgehead.name" . -}}
{{- $fullname := printf "%s-%s" .Release.Name $name -}}
{{- if .Values.fullnameOverride -}}
{{- $fullname = .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- $fullname = .Release.Name -}}
{{- end -}}
{{- include "bridgehead.cut" (dict "text" $fullname "size" 40) -}}
{{- end -}}

{{/* A text of at most `size` characters. One that is cut ends with a hash of the whole, so that two that begin alike differ. */}}
{{- define "bridgehead.cut" -}}
{{- if gt (len .text) .size -}}
{{- printf "%s-%s" (.text | trunc (sub .size 7 | int) | trimSuffix "-") (.text | sha256sum | trunc 6) -}}
{{- else -}}
{{- .text | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bridgehead.selectorLabels" -}}
app.kubernetes.io/name: {{ include "bridgehead.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "bridgehead.poolLabels" -}}
bridgehead/pool: {{ . | quote }}
{{- end -}}

{{/* What helm test's pod and the check's are called: no Service leads to them. `role` follows the name. */}}
{{- define "bridgehead.helperSelector" -}}
app.kubernetes.io/name: {{ include "bridgehead.name" .context }}-{{ .role }}
app.kubernetes.io/instance: {{ .context.Release.Name | quote }}
{{- end -}}

{{/* The metadata of those pods: (dict "context" "role" "annotations"). */}}
{{- define "bridgehead.helperLabels" -}}
{{ include "bridgehead.chartLabels" .context }}
{{ include "bridgehead.helperSelector" . }}
{{- with merge (dict) (.context.Values.check.podLabels | default dict) (.context.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* The spec of those pods: like the appliance's, but for what is about its place among others, its network and its volumes. */}}
{{- define "bridgehead.helperSpec" -}}
restartPolicy: Never
{{ include "bridgehead.podSpec" . }}
{{- with (.Values.affinity | default dict).nodeAffinity }}
affinity:
  nodeAffinity:
    {{- toYaml . | nindent 4 }}
{{- end }}
{{- end -}}

{{/* What all pods of the release have in common. */}}
{{- define "bridgehead.podSpec" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml .Values.podSecurityContext | nindent 2 }}
{{- with .Values.serviceAccountName }}
serviceAccountName: {{ . | quote }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "bridgehead.chartLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{/* Labels of an object. */}}
{{- define "bridgehead.labels" -}}
{{- include "bridgehead.labelsAnd" (list . dict) -}}
{{- end -}}

{{/* Labels of an object that has some of its own: (list context labels). Those go before commonLabels, by name. */}}
{{- define "bridgehead.labelsAnd" -}}
{{- $context := index . 0 -}}
{{ include "bridgehead.chartLabels" $context }}
{{ include "bridgehead.selectorLabels" $context }}
{{- with merge (dict) (index . 1 | default dict) ($context.Values.commonLabels | default dict) }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "bridgehead.claim" -}}
{{- .Values.persistence.existingClaim | default .Values.persistence.claimName | default (printf "%s-data" (include "bridgehead.fullname" .)) -}}
{{- end -}}

{{/* The registry of all charts, where there is one, takes the place of the repository's own. */}}
{{- define "bridgehead.image" -}}
{{- $repository := .Values.image.repository -}}
{{- with (.Values.global | default dict).imageRegistry -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) (regexReplaceAll "^([^/]*[.:][^/]*|localhost)/" $repository "") -}}
{{- end -}}
{{- if .Values.image.digest -}}
{{ $repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ $repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Is there a document from anywhere? */}}
{{- define "bridgehead.hasDocument" -}}
{{- if or .Values.config .Values.existingConfigMap .Values.configSecrets -}}true{{- end -}}
{{- end -}}

{{/* Where the document comes from, as JSON; `name` is that of the ConfigMap with the values' document. */}}
{{- define "bridgehead.documentSources" -}}
{{- $sources := list -}}
{{- if .context.Values.config -}}
{{- $sources = append $sources (dict "configMap" (dict "name" .name)) -}}
{{- end -}}
{{- with .context.Values.existingConfigMap -}}
{{- $sources = append $sources (dict "configMap" (dict "name" .)) -}}
{{- end -}}
{{- range .context.Values.configSecrets -}}
{{- $sources = append $sources (dict "secret" (dict "name" .)) -}}
{{- end -}}
{{- $sources | toJson -}}
{{- end -}}

{{/* Volumes of secrets for the document. Those of certificates may come later; a check must not wait for any (`all`). */}}
{{- define "bridgehead.secretVolumes" -}}
{{- $all := .all -}}
{{- range $name, $mount := .context.Values.secretMounts }}
- name: secret-{{ $name }}
  secret:
    secretName: {{ $mount.secretName | quote }}
    defaultMode: 0440
    {{- with $mount.items }}
    items:
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- if or $all $mount.optional }}
    optional: true
    {{- end }}
{{- end }}
{{- range $name, $certificate := .context.Values.certificates }}
- name: secret-{{ $name }}
  secret:
    secretName: {{ $certificate.secretName | default (printf "%s-%s-tls" (include "bridgehead.fullname" $.context) $name) | quote }}
    defaultMode: 0440
    optional: true
{{- end }}
{{- end -}}

{{- define "bridgehead.secretMounts" -}}
{{- range $name, $_ := .Values.secretMounts }}
- name: secret-{{ $name }}
  mountPath: /etc/bridgehead/secrets/{{ $name }}
  readOnly: true
{{- end }}
{{- range $name, $_ := .Values.certificates }}
- name: secret-{{ $name }}
  mountPath: /etc/bridgehead/secrets/{{ $name }}
  readOnly: true
{{- end }}
{{- end -}}

{{/* The environment: what the chart sets, and over it, by name, what the values set. */}}
{{- define "bridgehead.env" -}}
{{- $env := dict
  "BRIDGEHEAD_DATA_DIR" "/var/lib/bridgehead"
  "BRIDGEHEAD_API_LISTEN" (printf "%s:8025" .Values.listenAddress)
  "BRIDGEHEAD_HEALTH_LISTEN" (printf "%s:8026" .Values.listenAddress)
  "BRIDGEHEAD_STORE" .Values.store
  "BRIDGEHEAD_LOG_FORMAT" "json"
-}}
{{- if include "bridgehead.hasDocument" . -}}
{{- $_ := set $env "BRIDGEHEAD_CONFIG_DIR" "/etc/bridgehead/config" -}}
{{- else -}}
{{- $_ := set $env "BRIDGEHEAD_SMTP_LISTEN" (printf "%s:2525" .Values.listenAddress) -}}
{{- end -}}
{{- if .Values.adminKey.existingSecret -}}
{{- $_ := set $env "BRIDGEHEAD_ADMIN_KEY_FILE" "/etc/bridgehead/admin-key/key" -}}
{{- end -}}
{{- with .Values.api.trustedProxies -}}
{{- $_ := set $env "BRIDGEHEAD_API_PROXIES" (join "," .) -}}
{{- end -}}
{{- if .Values.api.tls.secretName -}}
{{- $_ := set $env "BRIDGEHEAD_API_TLS_CERT" "/etc/bridgehead/api-tls/tls.crt" -}}
{{- $_ := set $env "BRIDGEHEAD_API_TLS_KEY" "/etc/bridgehead/api-tls/tls.key" -}}
{{- end -}}
{{- if and .Values.restore.held (include "bridgehead.copy" .) -}}
{{- $_ := set $env "BRIDGEHEAD_RESTORED_FROM" (include "bridgehead.copy" .) -}}
{{- end -}}
{{- include "bridgehead.variables" (merge (deepCopy .Values.env) $env) -}}
{{- end -}}

{{/* What the store is a copy of, and where it lies: each copy is held once. The appliance keeps 253 characters of it. */}}
{{- define "bridgehead.copy" -}}
{{- $from := "" -}}
{{- if .Values.restore.fromClaim -}}
{{- $from = printf "claim/%s" .Values.restore.fromClaim -}}
{{- else if .Values.restore.fromSnapshot -}}
{{- $from = printf "snapshot/%s" .Values.restore.fromSnapshot -}}
{{- end -}}
{{- if $from -}}
{{- include "bridgehead.cut" (dict "text" (printf "%s claim/%s" $from (include "bridgehead.claim" .)) "size" 253) -}}
{{- end -}}
{{- end -}}

{{/* The environment of the check: what the values set. It must not wait for a secret, and goes on without. */}}
{{- define "bridgehead.checkEnv" -}}
{{- $env := deepCopy .Values.env -}}
{{- range $env -}}
{{- if kindIs "map" . -}}
{{- range $kind, $reference := .valueFrom | default dict -}}
{{- if has $kind (list "secretKeyRef" "configMapKeyRef") -}}
{{- $_ := set $reference "optional" true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "bridgehead.variables" $env -}}
{{- end -}}

{{- define "bridgehead.checkEnvFrom" -}}
{{- $sources := deepCopy .Values.envFrom -}}
{{- range $sources -}}
{{- range $kind, $reference := . -}}
{{- if has $kind (list "secretRef" "configMapRef") -}}
{{- $_ := set $reference "optional" true -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- toYaml $sources -}}
{{- end -}}

{{/* Variables by name, those from elsewhere first: a value may have them in it, as $(NAME). JSON writes large numbers as they are. */}}
{{- define "bridgehead.variables" -}}
{{- range $name, $value := . }}
{{- if and (kindIs "map" $value) (hasKey $value "valueFrom") }}
- name: {{ $name | quote }}
  {{- toYaml $value | nindent 2 }}
{{- end }}
{{- end }}
{{- range $name, $value := . }}
{{- if kindIs "map" $value }}
{{- if not (hasKey $value "valueFrom") }}
- name: {{ $name | quote }}
  {{- toYaml $value | nindent 2 }}
{{- end }}
{{- else }}
- name: {{ $name | quote }}
  value: {{ kindIs "string" $value | ternary $value (toJson $value) | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/*
The bindings that are known when this is rendered, as JSON: {"known": true, "list": [{"port": 2525, "greets": true, "proxied": false}],
"nameless": ["a"]}. Without a document there is the one of the first start; with documents from elsewhere not all is known.
`greets`: a client from the cluster that says nothing gets 220 in clear, and soon. `proxied`: it is told who the client is by the PROXY protocol.
`nameless`: virtual servers without `fqdn`.
*/}}
{{- define "bridgehead.bindings" -}}
{{- $list := list -}}
{{- $nameless := list -}}
{{- $known := not (or .Values.existingConfigMap .Values.configSecrets) -}}
{{- if .Values.config -}}
{{- range $name, $server := .Values.config.virtualServers -}}
{{- if ne (toString $server.enabled) "false" -}}
{{- if not $server.fqdn -}}
{{- $nameless = append $nameless $name -}}
{{- end -}}
{{- $delay := regexMatch "[1-9]" (($server.connections | default dict).greetingDelay | toString) -}}
{{- range $server.bindings -}}
{{- $address := .address | default "0.0.0.0" -}}
{{- if not (or (hasPrefix "127." $address) (eq $address "::1")) -}}
{{- $greets := not (or (eq (.tls | default "") "implicit") .proxyProtocol $delay $server.connectionControl) -}}
{{- $list = append $list (dict "port" (.port | toString | int) "greets" $greets "proxied" (not (not .proxyProtocol))) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- else if $known -}}
{{- $list = append $list (dict "port" 2525 "greets" true "proxied" false) -}}
{{- end -}}
{{- range .Values.apiBindings -}}
{{- $list = append $list (dict "port" (. | toString | int) "greets" false "proxied" false) -}}
{{- end -}}
{{- dict "known" $known "list" $list "nameless" $nameless | toJson -}}
{{- end -}}

{{/* Ports of mail, sorted, as JSON: those of the bindings, and those that Services lead to. */}}
{{- define "bridgehead.smtpPorts" -}}
{{- $ports := dict -}}
{{- range (include "bridgehead.bindings" . | fromJson).list -}}
{{- $_ := set $ports (printf "%05d" (int .port)) true -}}
{{- end -}}
{{- range .Values.services -}}
{{- range .ports -}}
{{- $_ := set $ports (printf "%05d" (int .)) true -}}
{{- end -}}
{{- end -}}
{{- $numbers := list -}}
{{- range keys $ports | sortAlpha -}}
{{- $numbers = append $numbers (. | trimPrefix "0" | trimPrefix "0" | trimPrefix "0" | trimPrefix "0" | int) -}}
{{- end -}}
{{- $numbers | toJson -}}
{{- end -}}

{{/* Can this Service be reached from outside of the cluster? */}}
{{- define "bridgehead.outside" -}}
{{- if or (ne (.type | default "ClusterIP") "ClusterIP") .externalIPs -}}true{{- end -}}
{{- end -}}

{{/* The port that clients in the cluster connect to: without an address of its own a Service translates none. (list service port target) */}}
{{- define "bridgehead.clientPort" -}}
{{- eq ((first .).clusterIP | default "") "None" | ternary (index . 2) (index . 1) -}}
{{- end -}}

{{/* What Services for mail and the one for REST have in common. */}}
{{- define "bridgehead.serviceSpec" -}}
type: {{ .type | default "ClusterIP" }}
{{- if include "bridgehead.outside" . }}
# Local keeps the clients' addresses
externalTrafficPolicy: {{ .externalTrafficPolicy | default "Local" }}
{{- end }}
{{- range $field := list "internalTrafficPolicy" "trafficDistribution" "loadBalancerClass" "loadBalancerIP" "loadBalancerSourceRanges" "allocateLoadBalancerNodePorts" "healthCheckNodePort" "clusterIP" "externalIPs" "ipFamilyPolicy" "ipFamilies" "sessionAffinity" "sessionAffinityConfig" }}
{{- $value := get $ $field }}
{{- if or $value (kindIs "bool" $value) }}
{{ toYaml (dict $field $value) }}
{{- end }}
{{- end }}
{{- end -}}
