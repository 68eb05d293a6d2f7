{{/*
The API version of MutatingAdmissionPolicy that this cluster has, empty if none: v1 since 1.36, v1beta1 where somebody
switched it on before. `helm template` without --api-versions knows a version of Kubernetes, but not what is switched on.
*/}}
{{- define "nodewise.optIn.available" -}}
{{- $group := "admissionregistration.k8s.io" -}}
{{- if or (.Capabilities.APIVersions.Has (printf "%s/v1/MutatingAdmissionPolicy" $group)) (semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version) -}}
{{ $group }}/v1
{{- else if .Capabilities.APIVersions.Has (printf "%s/v1beta1/MutatingAdmissionPolicy" $group) -}}
{{ $group }}/v1beta1
{{- end -}}
{{- end }}

{{/* Not empty if namespaces can opt in by their label with these values on this cluster. */}}
{{- define "nodewise.optIn" -}}
{{- if and .Values.scheduling.enabled .Values.admission.optIn.enabled (include "nodewise.optIn.available" .) -}}true{{- end -}}
{{- end }}

{{/* Namespaces that never opt in, label or not: what keeps the cluster, and us, running is not ours to place. */}}
{{- define "nodewise.optIn.never" -}}
{{ toJson (list "kube-system" "kube-public" "kube-node-lease" .Release.Namespace | uniq) }}
{{- end }}
