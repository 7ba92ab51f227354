{{- define "cache-broker.fullname" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 50 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "cache-broker.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{- define "cache-broker.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: cache-broker
{{- end -}}

{{- define "cache-broker.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- /* Grants a ClusterRole to a ServiceAccount in every watched namespace. Takes root, account and role. */ -}}
{{- define "cache-broker.grant" -}}
{{- $full := include "cache-broker.fullname" .root -}}
{{- $everywhere := has "*" .root.Values.watchNamespaces -}}
{{- $namespaces := .root.Values.watchNamespaces -}}
{{- if $everywhere }}{{ $namespaces = list "*" }}{{ end -}}
{{- $dot := . -}}
{{- range $namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "ClusterRoleBinding" "RoleBinding" $everywhere }}
metadata:
  name: {{ $dot.role }}
  {{- if not $everywhere }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "cache-broker.labels" $dot.root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ $dot.role }}
subjects:
  - kind: ServiceAccount
    name: {{ $dot.account }}
    namespace: {{ $dot.root.Release.Namespace }}
{{- end }}
{{- end -}}

{{- /* Binds a Role or ClusterRole of the same name. Takes root, account, name, and a namespace where it is a Role. */ -}}
{{- define "cache-broker.bind" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "RoleBinding" "ClusterRoleBinding" (hasKey . "namespace") }}
metadata:
  name: {{ .name }}
  {{- with .namespace }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "cache-broker.labels" .root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ ternary "Role" "ClusterRole" (hasKey . "namespace") }}
  name: {{ .name }}
subjects:
  - kind: ServiceAccount
    name: {{ .account }}
    namespace: {{ .root.Release.Namespace }}
{{- end -}}

{{- /* What the pods of both roles have in common. Takes root, component and values. */ -}}
{{- define "cache-broker.pod" -}}
serviceAccountName: {{ include "cache-broker.fullname" .root }}-{{ .component }}
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "cache-broker.container" -}}
name: {{ .component }}
image: {{ include "cache-broker.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [--role={{ .component }}]
envFrom:
  - configMapRef:
      name: {{ include "cache-broker.fullname" .root }}
  - secretRef:
      name: {{ .root.Values.secrets.settings }}
livenessProbe:
  httpGet:
    path: /livez
    port: health
  timeoutSeconds: 5
readinessProbe:
  httpGet:
    path: /readyz
    port: health
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  {{- toYaml .values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end -}}
