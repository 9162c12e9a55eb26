{{/* Names and labels */}}
{{- define "bridgehead.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 40 characters: names of Services are this and up to 22 more. */}}
{{- define "bridgehead.fullname" -}}
{{- $name := include "bridgehead.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bridgehead.selectorLabels" -}}
app.kubernetes.io/name: {{ include "bridgehead.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end -}}

{{- define "bridgehead.poolLabels" -}}
bridgehead/pool: {{ . | quote }}
{{- end -}}

{{/* Of helm test's pod and of the check's: no Service leads to them. `role` follows the name. */}}
{{- define "bridgehead.helperLabels" -}}
app.kubernetes.io/name: {{ include "bridgehead.name" .context }}-{{ .role }}
app.kubernetes.io/instance: {{ .context.Release.Name | quote }}
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

{{- define "bridgehead.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* Is there a document from anywhere? */}}
{{- define "bridgehead.hasDocument" -}}
{{- if or .Values.config .Values.existingConfigMap .Values.configSecrets -}}true{{- end -}}
{{- end -}}

{{/*
The directory of documents: one volume of all sources, so that a change of any swaps the whole. The name is that of the
ConfigMap with the values' document.
*/}}
{{- define "bridgehead.documentVolume" -}}
- name: config
  projected:
    defaultMode: 0444
    sources:
      {{- if .context.Values.config }}
      - configMap:
          name: {{ .name }}
      {{- end }}
      {{- with .context.Values.existingConfigMap }}
      - configMap:
          name: {{ . | quote }}
      {{- end }}
      {{- range .context.Values.configSecrets }}
      - secret:
          name: {{ . | quote }}
      {{- end }}
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
{{- if .Values.api.tls.secretName -}}
{{- $_ := set $env "BRIDGEHEAD_API_TLS_CERT" "/etc/bridgehead/api-tls/tls.crt" -}}
{{- $_ := set $env "BRIDGEHEAD_API_TLS_KEY" "/etc/bridgehead/api-tls/tls.key" -}}
{{- end -}}
{{- if and .Values.restore.held (or .Values.restore.fromClaim .Values.restore.fromSnapshot) -}}
{{- $_ := set $env "BRIDGEHEAD_RESTORED_FROM" (.Values.restore.fromClaim | default .Values.restore.fromSnapshot) -}}
{{- end -}}
{{- include "bridgehead.variables" (merge (deepCopy .Values.env) $env) -}}
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

{{/* Variables by name. JSON writes large numbers as they are. */}}
{{- define "bridgehead.variables" -}}
{{- range $name, $value := . }}
- name: {{ $name | quote }}
  {{- if kindIs "map" $value }}
  {{- toYaml $value | nindent 2 }}
  {{- else if kindIs "string" $value }}
  value: {{ $value | quote }}
  {{- else }}
  value: {{ $value | toJson | quote }}
  {{- end }}
{{- end }}
{{- end -}}

{{/*
The bindings that are known when this is rendered, as JSON: {"known": true, "list": [{"port": 2525, "greets": true, "proxied": false}]}.
Without a document there is the one of the first start; with documents from elsewhere nothing is known. `greets`: a client
that says nothing gets 220 in clear. `proxied`: it is told who the client is by the PROXY protocol.
*/}}
{{- define "bridgehead.bindings" -}}
{{- $list := list -}}
{{- $known := not (or .Values.existingConfigMap .Values.configSecrets) -}}
{{- if .Values.config -}}
{{- range $name, $server := .Values.config.virtualServers | default dict -}}
{{- if and (kindIs "map" $server) (ne (toString $server.enabled) "false") -}}
{{- range $server.bindings | default list -}}
{{- $address := .address | default "0.0.0.0" -}}
{{- if not (or (hasPrefix "127." $address) (eq $address "::1")) -}}
{{- $greets := and (ne (.tls | default "") "implicit") (not .proxyProtocol) -}}
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
{{- dict "known" $known "list" $list | toJson -}}
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

{{/* What the schema cannot say. Fails with words. */}}
{{- define "bridgehead.validate" -}}
{{- $fullname := include "bridgehead.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) -}}
{{- fail (printf "%q cannot be in the name of a Service, which begins with a letter and has no dots: choose fullnameOverride" $fullname) -}}
{{- end -}}
{{- range include "bridgehead.smtpPorts" . | fromJsonArray -}}
{{- if has (int .) (list 8025 8026) -}}
{{- fail (printf "port %d is not for mail: REST is at 8025, health and metrics at 8026" (int .)) -}}
{{- end -}}
{{- end -}}
{{- $bindings := include "bridgehead.bindings" . | fromJson -}}
{{- $bound := list -}}
{{- range $bindings.list -}}
{{- $bound = append $bound (int .port) -}}
{{- end -}}
{{- range $field := list "nodePort" "loadBalancerClass" "loadBalancerSourceRanges" -}}
{{- include "bridgehead.validateField" (dict "where" "api.service" "service" $.Values.api.service "field" $field) -}}
{{- end -}}
{{- range $name, $service := .Values.services -}}
{{- if has $name (list "api" "pods") -}}
{{- fail (printf "services.%s: the chart has a Service of that name" $name) -}}
{{- end -}}
{{- range $field := list "externalTrafficPolicy" "nodePorts" "loadBalancerClass" "loadBalancerSourceRanges" "allocateLoadBalancerNodePorts" -}}
{{- include "bridgehead.validateField" (dict "where" (printf "services.%s" $name) "service" $service "field" $field) -}}
{{- end -}}
{{- range $port, $target := $service.ports -}}
{{- if gt (int $port) 65535 -}}
{{- fail (printf "services.%s: there is no port %s" $name $port) -}}
{{- end -}}
{{- $number := int $target -}}
{{- if and $bindings.known (not (has $number $bound)) -}}
{{- fail (printf "services.%s: port %s leads to %d, but no binding of an enabled virtual server has that port (there are: %s). Bindings that are made by REST belong into apiBindings" $name $port $number (join ", " $bound | default "none")) -}}
{{- end -}}
{{- end -}}
{{- range $port, $_ := $service.nodePorts -}}
{{- if not (hasKey $service.ports $port) -}}
{{- fail (printf "services.%s.nodePorts: the service has no port %s" $name $port) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- range $name, $route := .Values.tcpRoutes -}}
{{- $service := get $.Values.services $route.service -}}
{{- if not $service -}}
{{- fail (printf "tcpRoutes.%s: there is no service %q" $name $route.service) -}}
{{- end -}}
{{- if not (hasKey $service.ports (toString $route.port)) -}}
{{- fail (printf "tcpRoutes.%s: the service %q has no port %v" $name $route.service $route.port) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.certificates -}}
{{- if hasKey $.Values.secretMounts $name -}}
{{- fail (printf "certificates.%s and secretMounts.%s are the same directory" $name $name) -}}
{{- end -}}
{{- end -}}
{{- if lt (int .Values.terminationGracePeriodSeconds) (add 15 (int .Values.preStopSleepSeconds) | int) -}}
{{- fail "terminationGracePeriodSeconds must be at least 15 more than preStopSleepSeconds, so that a drain ends before the pod is killed" -}}
{{- end -}}
{{- if and .Values.restore.fromClaim .Values.restore.fromSnapshot -}}
{{- fail "restore: either fromClaim or fromSnapshot" -}}
{{- end -}}
{{- if and .Values.persistence.existingClaim (or .Values.restore.fromClaim .Values.restore.fromSnapshot) -}}
{{- fail "restore makes a new claim: without persistence.existingClaim" -}}
{{- end -}}
{{- include "bridgehead.refusePlainSecrets" (dict "path" "config" "node" .Values.config) -}}
{{- end -}}

{{/* Fields that Kubernetes takes with some types of Services only. */}}
{{- define "bridgehead.validateField" -}}
{{- $types := ternary (list "LoadBalancer" "NodePort") (list "LoadBalancer") (has .field (list "externalTrafficPolicy" "nodePort" "nodePorts")) -}}
{{- $given := or (get .service .field) (kindIs "bool" (get .service .field)) -}}
{{- if and $given (not (has (.service.type | default "ClusterIP") $types)) -}}
{{- fail (printf "%s: %s needs the type %s" .where .field (join " or " $types)) -}}
{{- end -}}
{{- end -}}

{{/* A ConfigMap is no place for a secret: {"value": …} in the document fails. */}}
{{- define "bridgehead.refusePlainSecrets" -}}
{{- $path := .path -}}
{{- if kindIs "map" .node -}}
{{- if and (eq (len .node) 1) (kindIs "string" .node.value) -}}
{{- fail (printf "%s.value: the document of the values ends in a ConfigMap, which is no place for a secret; give it by {file: …} and secretMounts, by {env: …}, or put this part of the document into a Secret named in configSecrets" $path) -}}
{{- end -}}
{{- range $key, $child := .node -}}
{{- if not (has $key (list "labels" "attributes")) -}}
{{- include "bridgehead.refusePlainSecrets" (dict "path" (printf "%s.%s" $path $key) "node" $child) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" .node -}}
{{- range $index, $child := .node -}}
{{- include "bridgehead.refusePlainSecrets" (dict "path" (printf "%s[%d]" $path $index) "node" $child) -}}
{{- end -}}
{{- end -}}
{{- end -}}
