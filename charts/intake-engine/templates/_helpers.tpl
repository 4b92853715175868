{{/* The chart's name, or what is given instead. */}}
{{- define "intake-engine.chartName" -}}
{{- .Values.nameOverride | default .Chart.Name -}}
{{- end }}

{{/* The release's name, with the chart's name in it once; or what is given instead. */}}
{{- define "intake-engine.name" -}}
{{- $name := include "intake-engine.chartName" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "intake-engine.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "intake-engine.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{/*
What this release writes into the label intake-engine.io/guarded-by, and how its admission policies are named: its
namespace and its name, so that two operators never guard each other's objects. A label's value ends at 63 characters;
what is longer is told apart by a hash.
*/}}
{{- define "intake-engine.guard" -}}
{{- $whole := printf "%s.%s" .Release.Namespace (include "intake-engine.name" .) -}}
{{- if gt (len $whole) 63 -}}
{{- printf "%s-%s" ($whole | trunc 54 | trimSuffix "." | trimSuffix "-") ($whole | sha256sum | trunc 8) -}}
{{- else -}}
{{- $whole -}}
{{- end -}}
{{- end }}

{{/*
The half that every admission policy shares: whose objects it is for, and what its messages say. A condition that cannot
be evaluated refuses, so this one has a default at every step: it can only fail for objects that are ours.
*/}}
{{- define "intake-engine.guarded" -}}
failurePolicy: Fail
matchConditions:
  - name: guarded-by-this-operator
    expression: >-
      oldObject != null
      && oldObject.metadata.?labels[?'intake-engine.io/guarded-by'].orValue('') == '{{ include "intake-engine.guard" . }}'
variables:
  - name: event
    expression: oldObject.metadata.?labels[?'intake-engine.io/event'].orValue('its event')
  - name: wayOut
    expression: >-
      'To end the sale, delete the IntakeEvent ' + variables.event + ': it drains and is compared with the ledger first. '
      + 'To give up what cannot be drained, set the annotation intake-engine.io/abandon: ' + variables.event + ' on it.'
{{- end }}

{{- define "intake-engine.onlyTheOperator" -}}
reason: Forbidden
message: A sale whose claims are not all settled needs this object; only the intake operator removes it.
messageExpression: >-
  request.kind.kind + ' ' + oldObject.metadata.name + ' is needed by the sale ' + variables.event
  + ', whose claims are not all settled; only the intake operator removes it. ' + variables.wayOut
{{- end }}

{{/* A policy acts where it is bound: in the namespaces that the operator serves. Called with
(list . "name"), and true if it has to be evaluated for each event in the object's namespace. */}}
{{- define "intake-engine.guardBinding" -}}
{{- $root := index . 0 }}
{{- $name := printf "%s-%s" (include "intake-engine.guard" $root) (index . 1) }}
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata:
  name: {{ $name }}
  labels: {{- include "intake-engine.labels" $root | nindent 4 }}
spec:
  policyName: {{ $name }}
  validationActions: [Deny]
  {{- if gt (len .) 2 }}
  paramRef:
    selector: {}
    parameterNotFoundAction: Allow
  {{- end }}
  {{- with $root.Values.watchNamespaces }}
  matchResources:
    namespaceSelector:
      matchExpressions:
        - {key: kubernetes.io/metadata.name, operator: In, values: {{ toJson . }}}
  {{- end }}
{{- end }}

{{/* Labels that never change, fit for selectors. */}}
{{- define "intake-engine.selector" -}}
app.kubernetes.io/name: {{ include "intake-engine.chartName" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{/* part-of and component together are what DB1's NetworkPolicy lets in. */}}
{{- define "intake-engine.labels" -}}
{{ include "intake-engine.selector" . }}
app.kubernetes.io/part-of: intake-engine
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* An image by its digest if one is given, else by its tag. */}}
{{- define "intake-engine.image" -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag }}{{ end -}}
{{- end }}

{{/* User and groups of a pod of the operator's image; nothing where the cluster's admission sets them. */}}
{{- define "intake-engine.podSecurity" -}}
runAsNonRoot: true
{{- if .Values.podSecurity.fixedIds }}
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
{{- end }}
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{/* Where the operator's pod runs, and that of `helm test`. */}}
{{- define "intake-engine.scheduling" -}}
{{- range $field := list "imagePullSecrets" "nodeSelector" "tolerations" "affinity" "priorityClassName" }}
{{- with index $.Values $field }}
{{ $field }}: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- end }}

{{/* Not empty where the admin API listens for others than the pod itself. */}}
{{- define "intake-engine.adminTls" -}}
{{- if and .Values.admin.enabled .Values.admin.tlsSecretName }}yes{{ end -}}
{{- end }}

{{/* What the operator calls, verb by verb: no more than intake_operator/kube and watch.py use. */}}
{{- define "intake-engine.rules" -}}
- apiGroups: [intake-engine.io]
  resources: [intakeevents]
  verbs: [get, list, watch, patch]
- apiGroups: [intake-engine.io]
  resources: [intakeevents/status]
  verbs: [get, patch]
- apiGroups: [apps]
  resources: [statefulsets, deployments]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, list, watch, create, patch, delete]
# Made by the operator, so that it has an owner; released when the proof is in hand.
- apiGroups: [""]
  resources: [persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# By name only: an event's own three, and those that its spec refers to. Neither listed nor watched. Patched are owner
# references and labels of its own three.
- apiGroups: [""]
  resources: [secrets]
  verbs: [get, create, patch, delete]
# Whether a namespace with a sale in it is being deleted. A Role is enough for a namespace to be read by its name.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
# The report; and, by name, the inventory that a spec refers to. Neither listed nor watched.
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, create, patch]
# Only for a line of PreflightPassed, which reads NotAsked without it.
- apiGroups: [""]
  resources: [resourcequotas]
  verbs: [list]
# Listed are those of DB1's StatefulSet: only they say why its pod cannot be created.
- apiGroups: [""]
  resources: [events]
  verbs: [list, create]
{{- end }}
