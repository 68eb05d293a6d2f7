{{/* Rules for what pods are made from. */}}
{{- define "nodewise.admission.templates" -}}
- apiGroups: [apps]
  apiVersions: ["*"]
  resources: [deployments, statefulsets, replicasets, daemonsets]
  operations: [CREATE, UPDATE]
- apiGroups: [batch]
  apiVersions: ["*"]
  resources: [jobs, cronjobs]
  operations: [CREATE, UPDATE]
- apiGroups: [""]
  apiVersions: [v1]
  resources: [replicationcontrollers]
  operations: [CREATE, UPDATE]
{{- end }}

{{/* CEL for the metadata that a pod gets, as an optional. Takes `object` or `oldObject`. */}}
{{- define "nodewise.admission.podMetadata" -}}
(request.resource.resource in ["pods", "bindings"] ? {{ . }}.?metadata
: request.resource.resource == "cronjobs" ? {{ . }}.?spec.jobTemplate.spec.template.metadata
: {{ . }}.?spec.template.metadata)
{{- end }}

{{/* CEL for: these are Kubernetes' own controllers, which make what somebody was allowed to ask for, and kubelets. */}}
{{- define "nodewise.admission.controllers" -}}
request.userInfo.username == "system:kube-controller-manager"
|| request.userInfo.?groups.orValue([]).exists(g, g in ["system:serviceaccounts:kube-system", "system:nodes"])
{{- end }}

{{/* CEL for a text in quotes, escaped and not long. Takes the expression of the text. */}}
{{- define "nodewise.admission.quoted" -}}
strings.quote({{ . }}.size() > 60 ? {{ . }}.substring(0, 60) + "…" : {{ . }})
{{- end }}
