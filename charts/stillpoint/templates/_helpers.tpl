{{/* Labels of every object. */}}
{{- define "stillpoint.labels" -}}
app.kubernetes.io/name: stillpoint
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* The resource of every kind, with a comma between: of the CRDs that lie in the chart. */}}
{{- define "stillpoint.kinds" -}}
{{- $kinds := list }}
{{- range $path, $_ := .Files.Glob "files/crds/*.yaml" }}
{{- $kinds = append $kinds ($.Files.Get $path | fromYaml).spec.names.plural }}
{{- end }}
{{- join ", " $kinds }}
{{- end }}

{{/* What selects the controller's pod: never changes, because a Deployment's selector cannot. */}}
{{- define "stillpoint.controller.selector" -}}
app.kubernetes.io/name: stillpoint
app.kubernetes.io/component: controller
{{- end }}

{{/* What selects the guardians' pods. */}}
{{- define "stillpoint.guardian.selector" -}}
app.kubernetes.io/name: stillpoint
app.kubernetes.io/component: guardian
{{- end }}

{{/* What selects the node agents' pods. */}}
{{- define "stillpoint.agent.selector" -}}
app.kubernetes.io/name: stillpoint
app.kubernetes.io/component: node-agent
{{- end }}

{{/* The image, by digest where one is set. */}}
{{- define "stillpoint.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ required "image.tag or image.digest must be set" .tag }}
{{- end -}}
{{- end -}}
{{- end }}
