{{/* Name of the objects. */}}
{{- define "trainyard.name" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else if contains "trainyard" .Release.Name }}{{ .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}{{ printf "%s-trainyard" .Release.Name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* Name of objects without a namespace: of operators that each work in one namespace there are several. */}}
{{- define "trainyard.clusterName" -}}
{{- include "trainyard.name" . }}{{ if eq .Values.scope.mode "Namespaced" }}-{{ .Release.Namespace }}{{ end }}
{{- end }}

{{/* The namespace to work in; empty for all. */}}
{{- define "trainyard.namespace" -}}
{{- if eq .Values.scope.mode "Namespaced" }}{{ .Values.scope.namespace | default .Release.Namespace }}
{{- else if .Values.scope.namespace }}
{{- fail "scope.namespace needs scope.mode=Namespaced: in the mode Cluster the operator works in all namespaces" }}
{{- end }}
{{- end }}

{{/* The namespace of the operator's lease: by default that of -n, or the operator's own (operator/src/cli/cluster.rs). */}}
{{- define "trainyard.leaseNamespace" -}}
{{- include "trainyard.namespace" . | default .Release.Namespace }}
{{- end }}

{{- define "trainyard.serviceAccount" -}}
{{- if .Values.serviceAccount.name }}{{ .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create }}{{ include "trainyard.name" . }}
{{- else }}default
{{- end }}
{{- end }}

{{- define "trainyard.image" -}}
{{- .Values.image.repository }}
{{- if .Values.image.digest }}@{{ .Values.image.digest }}{{ else }}:{{ .Values.image.tag | default .Chart.AppVersion }}{{ end }}
{{- end }}

{{/* What the operator's pods are selected by. `trainyard support-bundle` finds them by the name. */}}
{{- define "trainyard.selector" -}}
app.kubernetes.io/name: trainyard
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end }}

{{- define "trainyard.labels" -}}
{{ include "trainyard.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "trainyard.metadata" -}}
name: {{ include "trainyard.name" . }}
namespace: {{ .Release.Namespace }}
labels:
  {{- include "trainyard.labels" . | nindent 2 }}
{{- end }}

{{/* The binding of a role, by its kind and name, to the operator. */}}
{{- define "trainyard.subject" -}}
subjects:
  - kind: ServiceAccount
    name: {{ include "trainyard.serviceAccount" . }}
    namespace: {{ .Release.Namespace }}
{{- end }}
