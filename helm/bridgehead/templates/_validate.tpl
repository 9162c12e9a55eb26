{{/* What the schema cannot say. Fails with words. */}}
{{- define "bridgehead.validate" -}}
{{- $fullname := include "bridgehead.fullname" . -}}
{{- if not (regexMatch "^[a-z]([-a-z0-9]*[a-z0-9])?$" $fullname) -}}
{{- fail (printf "%q cannot be in the name of a Service, which begins with a letter and has no dots: choose fullnameOverride" $fullname) -}}
{{- end -}}
{{- range include "bridgehead.smtpPorts" . | fromJsonArray -}}
{{- if not . -}}
{{- fail "a binding with port 0 listens where the system likes, and no Service can lead there: give it a port" -}}
{{- end -}}
{{- if has (int .) (list 8025 8026) -}}
{{- fail (printf "port %d is not for mail: REST is at 8025, health and metrics at 8026" (int .)) -}}
{{- end -}}
{{- end -}}
{{- $bindings := include "bridgehead.bindings" . | fromJson -}}
{{- $bound := list -}}
{{- range $bindings.list -}}
{{- $bound = append $bound (int .port) -}}
{{- end -}}
{{- include "bridgehead.validateService" (dict "where" "api.service" "service" .Values.api.service) -}}
{{- range $name, $service := .Values.services -}}
{{- if has $name (list "api" "pods") -}}
{{- fail (printf "services.%s: the chart has a Service of that name" $name) -}}
{{- end -}}
{{- include "bridgehead.validateService" (dict "where" (printf "services.%s" $name) "service" $service) -}}
{{- if not $service.ports -}}
{{- fail (printf "services.%s has no ports: give it one, or take it away with null" $name) -}}
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
{{- include "bridgehead.validateNodePorts" . -}}
{{- range $name, $route := .Values.tcpRoutes -}}
{{- $service := get ($.Values.services | default dict) $route.service -}}
{{- if not $service -}}
{{- fail (printf "tcpRoutes.%s: there is no service %q" $name $route.service) -}}
{{- end -}}
{{- if not (hasKey $service.ports (toString $route.port)) -}}
{{- fail (printf "tcpRoutes.%s: the service %q has no port %v" $name $route.service $route.port) -}}
{{- end -}}
{{- end -}}
{{- range $name, $_ := .Values.certificates -}}
{{- if hasKey ($.Values.secretMounts | default dict) $name -}}
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
{{- if and .Values.restore.fromClaim (eq .Values.restore.fromClaim (include "bridgehead.claim" .)) -}}
{{- fail (printf "restore.fromClaim: %q is the claim of this release itself; give the new one another name (persistence.claimName)" .Values.restore.fromClaim) -}}
{{- end -}}
{{- if and .Values.config (has .Values.existingConfigMap (list (printf "%s-config" $fullname) (printf "%s-check" $fullname))) -}}
{{- fail (printf "existingConfigMap: %q is the name of the ConfigMap that is made of config" .Values.existingConfigMap) -}}
{{- end -}}
{{- include "bridgehead.validateEnv" . -}}
{{- range .Values.api.trustedProxies -}}
{{- include "bridgehead.validateNetwork" (dict "where" "api.trustedProxies" "network" .) -}}
{{- end -}}
{{- $files := list -}}
{{- range keys (.Values.secretMounts | default dict) (.Values.certificates | default dict) -}}
{{- $files = append $files (printf "/etc/bridgehead/secrets/%s" .) -}}
{{- end -}}
{{- range .Values.extraVolumeMounts -}}
{{- $files = append $files (trimSuffix "/" .mountPath) -}}
{{- end -}}
{{- if hasKey .Values.env "BRIDGEHEAD_SECRETS_DIR" -}}
{{- $files = list "" -}}
{{- end -}}
{{- include "bridgehead.validateSources" (dict "path" "config" "key" "" "node" .Values.config "pod" (dict "files" $files "env" .Values.env "envFrom" .Values.envFrom)) -}}
{{- end -}}

{{/* What Kubernetes takes with some types of Services only. */}}
{{- define "bridgehead.validateService" -}}
{{- $where := .where -}}
{{- $service := .service -}}
{{- $type := $service.type | default "ClusterIP" -}}
{{- range $field := list "nodePort" "nodePorts" "loadBalancerClass" "loadBalancerIP" "loadBalancerSourceRanges" "allocateLoadBalancerNodePorts" "healthCheckNodePort" -}}
{{- $types := has $field (list "nodePort" "nodePorts") | ternary (list "LoadBalancer" "NodePort") (list "LoadBalancer") -}}
{{- $given := or (get $service $field) (kindIs "bool" (get $service $field)) -}}
{{- if and $given (not (has $type $types)) -}}
{{- fail (printf "%s: %s needs the type %s" $where $field (join " or " $types)) -}}
{{- end -}}
{{- end -}}
{{- if and $service.externalTrafficPolicy (not (include "bridgehead.outside" $service)) -}}
{{- fail (printf "%s: externalTrafficPolicy needs the type LoadBalancer or NodePort, or externalIPs" $where) -}}
{{- end -}}
{{- if and $service.healthCheckNodePort (eq ($service.externalTrafficPolicy | default "Local") "Cluster") -}}
{{- fail (printf "%s: healthCheckNodePort needs externalTrafficPolicy: Local" $where) -}}
{{- end -}}
{{- if and (eq ($service.clusterIP | default "") "None") (ne $type "ClusterIP") -}}
{{- fail (printf "%s: a %s needs an address in the cluster: without clusterIP: None" $where $type) -}}
{{- end -}}
{{- end -}}

{{/* Ports of the nodes: such as they give, and each once. A Service that Kubernetes refuses would end an upgrade in its middle. */}}
{{- define "bridgehead.validateNodePorts" -}}
{{- $asked := list (list "api.service.nodePort" .Values.api.service.nodePort) (list "api.service.healthCheckNodePort" .Values.api.service.healthCheckNodePort) -}}
{{- range $name, $service := .Values.services -}}
{{- range $port, $nodePort := $service.nodePorts -}}
{{- $asked = append $asked (list (printf "services.%s.nodePorts.%s" $name $port) $nodePort) -}}
{{- end -}}
{{- $asked = append $asked (list (printf "services.%s.healthCheckNodePort" $name) $service.healthCheckNodePort) -}}
{{- end -}}
{{- $range := splitList "-" .Values.nodePortRange -}}
{{- $taken := dict -}}
{{- range $asked -}}
{{- $where := first . -}}
{{- with last . -}}
{{- $port := int . -}}
{{- if or (lt $port (int (first $range))) (gt $port (int (last $range))) -}}
{{- fail (printf "%s: %d is not among the ports of the nodes, %s (nodePortRange)" $where $port $.Values.nodePortRange) -}}
{{- end -}}
{{- with get $taken (toString $port) -}}
{{- fail (printf "%s: %d is taken by %s" $where $port .) -}}
{{- end -}}
{{- $_ := set $taken (toString $port) $where -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Variables that the chart sets and builds on. */}}
{{- define "bridgehead.validateEnv" -}}
{{- $instead := dict
  "BRIDGEHEAD_DATA_DIR" "persistence"
  "BRIDGEHEAD_CONFIG_DIR" "config, existingConfigMap or configSecrets"
  "BRIDGEHEAD_API_LISTEN" "listenAddress"
  "BRIDGEHEAD_HEALTH_LISTEN" "listenAddress"
  "BRIDGEHEAD_SMTP_LISTEN" "listenAddress, or the bindings of config"
  "BRIDGEHEAD_API_PROXIES" "api.trustedProxies"
  "BRIDGEHEAD_API_TLS_CERT" "api.tls.secretName"
  "BRIDGEHEAD_API_TLS_KEY" "api.tls.secretName"
  "BRIDGEHEAD_ADMIN_KEY_FILE" "adminKey.existingSecret"
  "BRIDGEHEAD_STORE" "store"
-}}
{{- range $name, $_ := .Values.env -}}
{{- with get $instead $name -}}
{{- fail (printf "env.%s: the chart sets it; use %s" $name .) -}}
{{- end -}}
{{- end -}}
{{- if and (hasKey .Values.env "BRIDGEHEAD_ADMIN_KEY") .Values.adminKey.existingSecret -}}
{{- fail "env.BRIDGEHEAD_ADMIN_KEY: the key comes from adminKey.existingSecret; leave one of them" -}}
{{- end -}}
{{- if and (hasKey .Values.env "BRIDGEHEAD_SECRETS_DIR") (or .Values.secretMounts .Values.certificates) -}}
{{- fail "env.BRIDGEHEAD_SECRETS_DIR: secretMounts and certificates are at /etc/bridgehead/secrets; leave it, or leave those" -}}
{{- end -}}
{{- end -}}

{{/*
What the pattern of the schema cannot say of a network: how much `::` stands for, and that no bit is set behind the prefix. The
appliance would not start.
*/}}
{{- define "bridgehead.validateNetwork" -}}
{{- $address := splitList "/" .network | first -}}
{{- $six := contains ":" $address -}}
{{- $halves := list -}}
{{- range splitList "::" $address -}}
{{- $bits := "" -}}
{{- range regexSplit "[:.]" . -1 | compact -}}
{{- $bits = printf "%s%0*b" $bits (ternary 16 8 $six) (ternary (printf "0x%s" .) . $six | int) -}}
{{- end -}}
{{- $halves = append $halves $bits -}}
{{- end -}}
{{- $left := sub (ternary 128 32 $six) (join "" $halves | len) | int -}}
{{- if and (contains "::" $address) (lt $left 16) -}}
{{- fail (printf "%s: %s is no network: it has too many groups" .where .network) -}}
{{- end -}}
{{- $bits := join (repeat $left "0") $halves -}}
{{- if and (contains "/" .network) (contains "1" (substr (splitList "/" .network | last | int) -1 $bits)) -}}
{{- fail (printf "%s: %s is no network: bits behind its prefix are set" .where .network) -}}
{{- end -}}
{{- end -}}

{{/*
Where secrets and texts of the document come from. {"value": …} fails, as a ConfigMap is no place for a secret; certificates
(`chain`, `clientCa`, `ca`) are none. {"file": …} and {"env": …} must be in the pod. Labels, attributes and roles may look
like that, and are not; headers have any name.
*/}}
{{- define "bridgehead.validateSources" -}}
{{- $path := .path -}}
{{- $pod := .pod -}}
{{- if kindIs "map" .node -}}
{{- if not (has .key (list "labels" "attributes" "roles")) -}}
{{- if and (kindIs "string" .node.value) (not (has .key (list "chain" "clientCa" "ca"))) -}}
{{- fail (printf "%s.value: the document of the values ends in a ConfigMap, which is no place for a secret; give it by {file: …} and secretMounts, by {env: …}, or put this part of the document into a Secret named in configSecrets" .path) -}}
{{- end -}}
{{- if kindIs "string" .node.file -}}
{{- $file := hasPrefix "/" .node.file | ternary .node.file (printf "/etc/bridgehead/secrets/%s" .node.file) -}}
{{- $found := false -}}
{{- range $pod.files -}}
{{- if or (eq . $file) (hasPrefix (printf "%s/" .) $file) -}}
{{- $found = true -}}
{{- end -}}
{{- end -}}
{{- if not $found -}}
{{- $name := $file | trimPrefix "/etc/bridgehead/secrets/" | splitList "/" | first -}}
{{- fail (printf "%s.file: nothing brings %q into the pod: add secretMounts.%s or certificates.%s, or mount it with extraVolumes and extraVolumeMounts" .path .node.file $name $name) -}}
{{- end -}}
{{- end -}}
{{- if and (kindIs "string" .node.env) (not $pod.envFrom) (not (hasKey $pod.env .node.env)) -}}
{{- fail (printf "%s.env: the pod has no variable %s: add env.%s, such as {valueFrom: {secretKeyRef: {name: …, key: …}}}, or envFrom" .path .node.env .node.env) -}}
{{- end -}}
{{- end -}}
{{- range $key, $child := .node -}}
{{- if or (kindIs "map" $child) (kindIs "slice" $child) -}}
{{- $named := eq $path "config.settings.tracing.headers" | ternary "" $key -}}
{{- include "bridgehead.validateSources" (dict "path" (printf "%s.%s" $path $key) "key" $named "node" $child "pod" $pod) -}}
{{- end -}}
{{- end -}}
{{- else if kindIs "slice" .node -}}
{{- range $index, $child := .node -}}
{{- if or (kindIs "map" $child) (kindIs "slice" $child) -}}
{{- include "bridgehead.validateSources" (dict "path" (printf "%s[%d]" $path $index) "key" "" "node" $child "pod" $pod) -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
