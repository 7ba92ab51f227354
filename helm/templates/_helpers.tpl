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

{{- /* The name of the ServiceAccount of a component. Takes root, component and values. */ -}}
{{- define "cache-broker.account" -}}
{{- .values.serviceAccount.name | default (printf "%s-%s" (include "cache-broker.fullname" .root) .component) -}}
{{- end -}}

{{- /* The ServiceAccount of a component, if it is to be made. Takes root, component and values. */ -}}
{{- define "cache-broker.serviceAccount" -}}
{{- if .values.serviceAccount.create }}
---
apiVersion: v1
kind: ServiceAccount
metadata:
  name: {{ include "cache-broker.account" . }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "cache-broker.labels" .root | nindent 4 }}
  {{- with .values.serviceAccount.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end }}
{{- end -}}

{{- /* Grants a ClusterRole to a ServiceAccount in every watched namespace. Takes root, account, role and name. */ -}}
{{- define "cache-broker.grant" -}}
{{- $everywhere := has "*" .root.Values.watchNamespaces -}}
{{- $namespaces := .root.Values.watchNamespaces -}}
{{- if $everywhere }}{{ $namespaces = list "*" }}{{ end -}}
{{- $dot := . -}}
{{- range $namespaces }}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ ternary "ClusterRoleBinding" "RoleBinding" $everywhere }}
metadata:
  name: {{ ternary $dot.role $dot.name $everywhere }}
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

{{- /* The labels and annotations of a component's pods. Takes root, component and values. */ -}}
{{- define "cache-broker.podMetadata" -}}
labels:
  {{- include "cache-broker.selector" . | nindent 2 }}
  {{- with .values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  checksum/settings: {{ include (print .root.Template.BasePath "/configmap.yaml") .root | sha256sum }}
  {{- if .root.Values.secrets.create }}
  checksum/secrets: {{ toJson .root.Values.secrets.values | sha256sum }}
  {{- end }}
  {{- with .values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end -}}

{{- define "cache-broker.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "cache-broker.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{- /* What the pods of both roles have in common. Takes root, component and values. */ -}}
{{- define "cache-broker.pod" -}}
serviceAccountName: {{ include "cache-broker.account" . }}
enableServiceLinks: false
terminationGracePeriodSeconds: 40
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  {{- include "cache-broker.podSecurity" . | nindent 2 }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "cache-broker.selector" . | nindent 8 }}
  - maxSkew: 1
    topologyKey: topology.kubernetes.io/zone
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "cache-broker.selector" . | nindent 8 }}
{{- end -}}

{{- /* Where a process gets its settings from. Takes root. */ -}}
{{- define "cache-broker.envFrom" -}}
- configMapRef:
    name: {{ include "cache-broker.fullname" .root }}
- secretRef:
    name: {{ .root.Values.secrets.settings }}
{{- end -}}

{{- define "cache-broker.container" -}}
name: {{ .component }}
image: {{ include "cache-broker.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
args: [--role={{ .component }}]
envFrom:
  {{- include "cache-broker.envFrom" . | nindent 2 }}
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
  {{- include "cache-broker.containerSecurity" . | nindent 2 }}
{{- end -}}

{{- /* A Job that runs a command of the broker before an upgrade. Takes root, name, account, weight, args and database. */ -}}
{{- define "cache-broker.hookJob" -}}
apiVersion: batch/v1
kind: Job
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "cache-broker.labels" .root | nindent 4 }}
  annotations:
    helm.sh/hook: {{ .hook }}
    helm.sh/hook-weight: {{ .weight | quote }}
    helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
spec:
  backoffLimit: 3
  activeDeadlineSeconds: 300
  template:
    metadata:
      labels:
        {{- include "cache-broker.selector" (dict "root" .root "component" "job") | nindent 8 }}
    spec:
      restartPolicy: Never
      enableServiceLinks: false
      {{- with .account }}
      serviceAccountName: {{ . }}
      {{- else }}
      automountServiceAccountToken: false
      {{- end }}
      {{- with .root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        {{- include "cache-broker.podSecurity" . | nindent 8 }}
      containers:
        - name: job
          image: {{ include "cache-broker.image" .root | quote }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: {{ toJson .args }}
          {{- if .database }}
          env:
            - name: LEDGER_KEYS_FILE
              value: /etc/cache-broker/ledger/keys
          envFrom:
            - secretRef:
                name: {{ .root.Values.secrets.settings }}
          volumeMounts:
            - name: ledger
              mountPath: /etc/cache-broker/ledger
              readOnly: true
          {{- end }}
          resources:
            requests: {cpu: 50m, memory: 64Mi}
            limits: {memory: 256Mi}
          securityContext:
            {{- include "cache-broker.containerSecurity" . | nindent 12 }}
      {{- if .database }}
      volumes:
        - name: ledger
          secret:
            secretName: {{ .root.Values.secrets.ledgerKeys }}
            defaultMode: 0440
      {{- end }}
{{- end -}}
