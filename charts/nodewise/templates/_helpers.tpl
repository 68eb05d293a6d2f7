{{/* The chart's name in labels. */}}
{{- define "nodewise.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" }}
{{- end }}

{{/* What every object's name begins with; short enough for the longest ending and a ReplicaSet's hash. */}}
{{- define "nodewise.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- $name := include "nodewise.name" . }}
{{- /* A release's name may have dots, a Service's may not. */}}
{{- $release := .Release.Name | replace "." "-" }}
{{- if contains $name $release }}
{{- $release | trunc 40 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" $release $name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What never changes in the life of a Deployment. Takes (dict "root" $ "component" "operator"). */}}
{{- define "nodewise.selectorLabels" -}}
app.kubernetes.io/name: {{ include "nodewise.name" .root | quote }}
app.kubernetes.io/instance: {{ .root.Release.Name | quote }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/*
Labels of every object, each key once. Takes (dict "root" $ "component" "operator" "ours" map "theirs" map); an object of
no component, or without labels of its own, leaves them out. Ours win over the user's for this object, and these over
commonLabels.
*/}}
{{- define "nodewise.labels" -}}
{{- $base := include "nodewise.baseLabels" . | fromYaml -}}
{{- merge $base (.ours | default dict) (.theirs | default dict) (.root.Values.commonLabels | default dict) | toYaml -}}
{{- end }}
{{- define "nodewise.baseLabels" -}}
{{ include "nodewise.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: nodewise
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* An image's reference; a digest wins over the tag. Takes (dict "image" map "tag" what-is-used-without-one). */}}
{{- define "nodewise.image" -}}
{{- $image := .image -}}
{{- $name := $image.repository -}}
{{- with $image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $name $image.digest }}
{{- else -}}
{{ printf "%s:%s" $name ($image.tag | default .tag) }}
{{- end -}}
{{- end }}

{{/* Names of objects that several templates speak of. */}}
{{- define "nodewise.operator.fullname" -}}
{{ include "nodewise.fullname" . }}-operator
{{- end }}
{{- define "nodewise.scheduler.fullname" -}}
{{ include "nodewise.fullname" . }}-scheduler
{{- end }}
{{- define "nodewise.extender.fullname" -}}
{{ include "nodewise.fullname" . }}-extender
{{- end }}
{{- define "nodewise.operator.serviceAccountName" -}}
{{ include "nodewise.operator.fullname" . }}
{{- end }}
{{- define "nodewise.scheduler.serviceAccountName" -}}
{{ include "nodewise.scheduler.fullname" . }}
{{- end }}
{{- define "nodewise.extender.serviceAccountName" -}}
{{ include "nodewise.extender.fullname" . }}
{{- end }}
{{/* The Secret with the token of the extender's account. */}}
{{- define "nodewise.extender.tokenSecretName" -}}
{{ include "nodewise.extender.fullname" . }}-token
{{- end }}
{{/* The Lease of the two schedulers, in the release's namespace. */}}
{{- define "nodewise.scheduler.leaseName" -}}
{{ include "nodewise.scheduler.fullname" . }}
{{- end }}
{{/* The Lease of the two operators, if there are two. */}}
{{- define "nodewise.operator.leaseName" -}}
{{ include "nodewise.operator.fullname" . }}
{{- end }}
{{/* Not empty if the operator takes a Lease, which it does where a second replica is possible. */}}
{{- define "nodewise.operator.lease" -}}
{{- if .Values.operator.store.postgres.existingSecret.name }}true{{ end }}
{{- end }}

{{/* Not empty if extenders send their decisions to the operator. */}}
{{- define "nodewise.channel" -}}
{{- if and .Values.scheduling.enabled (ne .Values.channel.tls.mode "none") }}true{{ end }}
{{- end }}
{{/* The Secret with tls.crt, tls.key and ca.crt of the channel. */}}
{{- define "nodewise.channel.secretName" -}}
{{- if eq .Values.channel.tls.mode "existingSecret" -}}
{{ .Values.channel.tls.existingSecret.name }}
{{- else -}}
{{ include "nodewise.operator.fullname" . }}-tls
{{- end -}}
{{- end }}
{{/* The name that the channel's certificate is for. */}}
{{- define "nodewise.channel.host" -}}
{{ include "nodewise.operator.fullname" . }}.{{ .Release.Namespace }}.svc
{{- end }}

{{/*
What a Secret lacks, for a sentence; empty if nothing, or if there is no cluster that could be asked (helm template).
Takes (dict "root" $ "name" its-name "keys" list).
*/}}
{{- define "nodewise.secretLacks" -}}
{{- if lookup "v1" "Namespace" "" "kube-system" -}}
{{- $lacks := list -}}
{{- with lookup "v1" "Secret" .root.Release.Namespace .name -}}
{{- $data := .data | default dict -}}
{{- range $key := $.keys }}{{ if not (hasKey $data $key) }}{{ $lacks = append $lacks $key }}{{ end }}{{ end -}}
{{- with $lacks }}has no {{ join ", " . }}{{ end -}}
{{- else -}}
does not exist
{{- end -}}
{{- end -}}
{{- end }}

{{/* Flags by which `kubectl nodewise release` finds pods of a scheduler that it cannot ask any more. */}}
{{- define "nodewise.releaseFlags" -}}
--scheduler-name {{ .Values.scheduling.schedulerName }}
{{- if ne .Values.scheduling.dedicatedNodes.key "nodewise.dev/dedicated" }} --dedicated-key {{ .Values.scheduling.dedicatedNodes.key }}{{ end }}
{{- end }}

{{- define "nodewise.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "nodewise.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The sources of a volume that holds what Kubernetes' clients look for: a short-lived token of the pod's account. */}}
{{- define "nodewise.tokenSources" -}}
- serviceAccountToken:
    path: token
    expirationSeconds: 3607
- configMap:
    name: kube-root-ca.crt
    items:
      - key: ca.crt
        path: ca.crt
- downwardAPI:
    items:
      - path: namespace
        fieldRef:
          apiVersion: v1
          fieldPath: metadata.namespace
{{- end }}

{{/* The cluster's minor version, such as 1.36. */}}
{{- define "nodewise.kubeMinor" -}}
{{ .Capabilities.KubeVersion.Major }}.{{ .Capabilities.KubeVersion.Minor | trimSuffix "+" }}
{{- end }}

{{/*
Not empty if nobody told what version the cluster is of: without a cluster and without --kube-version, helm takes its
own client's, v1.N.0, which looks like any other. A cluster can be asked (lookup), and an older helm does not say which
minor its own is, so that every v1.N.0 is doubted.
*/}}
{{- define "nodewise.kubeVersionUnknown" -}}
{{- $own := (.Capabilities.HelmVersion | toJson | fromJson).kube_client_version -}}
{{- $version := .Capabilities.KubeVersion.Version -}}
{{- if or (and $own (eq $version (printf "%s.0" $own))) (and (not $own) (regexMatch `^v1\.[0-9]+\.0$` $version)) -}}
{{- if not (lookup "v1" "Namespace" "" "kube-system") }}true{{ end -}}
{{- end -}}
{{- end }}

{{/* kube-scheduler's tag: what was chosen, or what the table says of the cluster's minor version. */}}
{{- define "nodewise.scheduler.tag" -}}
{{- $image := .Values.scheduling.scheduler.image -}}
{{- if $image.tag -}}
{{ $image.tag }}
{{- else if not $image.digest -}}
{{- $table := .Files.Get "files/kube-scheduler.yaml" | fromYaml -}}
{{- $minor := include "nodewise.kubeMinor" . -}}
{{- $known := keys $table | sortAlpha | join ", " -}}
{{- if include "nodewise.kubeVersionUnknown" . -}}
{{- fail "nodewise: the cluster's version is not known here, and kube-scheduler must match it: give --kube-version with its full version, such as 1.36.3, or set scheduling.scheduler.image.tag" -}}
{{- else if not (hasKey $table $minor) -}}
{{- fail (printf "nodewise: no kube-scheduler is known for Kubernetes %s (only for %s): set scheduling.scheduler.image.tag to one of that minor version" $minor $known) -}}
{{- end -}}
{{ (get $table $minor).tag }}
{{- end -}}
{{- end }}

{{/* What kube-scheduler is told; weights and the default spreading are those of the simulator, and a test compares. */}}
{{- define "nodewise.scheduler.config" -}}
{{- $scheduling := .Values.scheduling -}}
apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
leaderElection:
  leaderElect: true
  # Another one looks every 1 to 2.2 s, and so leads at most 14.4 s after the last renewal.
  leaseDuration: 10s
  renewDeadline: 7s
  retryPeriod: 1s
  # The Lease kube-system/kube-scheduler is the default scheduler's: with it we would never lead.
  resourceName: {{ include "nodewise.scheduler.leaseName" . }}
  resourceNamespace: {{ .Release.Namespace | quote }}
clientConnection:
  qps: {{ int $scheduling.clientQps }}
  burst: {{ int $scheduling.clientBurst }}
{{- if $scheduling.defer }}
podInitialBackoffSeconds: 1
podMaxBackoffSeconds: 1
{{- end }}
profiles:
  - schedulerName: {{ $scheduling.schedulerName | quote }}
    plugins:
      score:
        # One point of what somebody wrote outvotes all ten of the extender's (10 x 10 x 150).
        enabled:
          - {name: NodeAffinity, weight: 16000}
          - {name: InterPodAffinity, weight: 16000}
          - {name: TaintToleration, weight: 16000}
          - {name: PodTopologySpread, weight: 16000}
    pluginConfig:
      # Nobody wrote the built-in default spreading, and at this weight it would outvote the extender for every replica.
      - name: PodTopologySpread
        args:
          defaultingType: List
          defaultConstraints: []
extenders:
  - urlPrefix: http://127.0.0.1:8888
    # The only verb whose errors never block a pod.
    prioritizeVerb: prioritize
    weight: 150
    nodeCacheCapable: true
    ignorable: true
    httpTimeout: {{ int $scheduling.httpTimeoutMs }}ms
{{- end }}
