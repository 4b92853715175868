{{/* The release's name, with the chart's name in it once. */}}
{{- define "intake-engine.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "intake-engine.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (include "intake-engine.name" .) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{/* Labels that never change, fit for selectors. */}}
{{- define "intake-engine.selector" -}}
app.kubernetes.io/name: intake-engine
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
# Owner references that block deletion, where the API server asks leave for them (OwnerReferencesPermissionEnforcement).
- apiGroups: [intake-engine.io]
  resources: [intakeevents/finalizers]
  verbs: [update]
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
- apiGroups: [""]
  resources: [events]
  verbs: [create]
{{- end }}
