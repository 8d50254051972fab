{{/*
What the operator may do where it works. Each rule names the code that needs it. A test lets the operator work with these
rights and no others, and compares them with the requests that it made (tests/operator/rights.rs).
*/}}
{{- define "trainyard.rules" -}}
# operator/src/cluster/mod.rs watches jobs; act.rs reads one whose status write was not answered, and deletes one that is
# finished when its time is over.
- apiGroups: [trainyard.dev]
  resources: [trainingjobs, scoringjobs]
  verbs: [get, list, watch, delete]
# operator/src/cluster/mod.rs watches endpoints; endpoint/act.rs reads one whose status write was not answered.
- apiGroups: [trainyard.dev]
  resources: [modelendpoints]
  verbs: [get, list, watch]
# operator/src/cluster/act.rs applies the one status of each.
- apiGroups: [trainyard.dev]
  resources: [trainingjobs/status, scoringjobs/status, modelendpoints/status]
  verbs: [patch]
# operator/src/cluster/mod.rs watches the pods of jobs, reconcile.rs lists those of a job before its next attempt; act.rs
# creates and deletes them, and reads one whose name is taken.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, create, delete]
# operator/src/cluster/beside.rs creates the Service by which the pods of a gang find each other, looks up whose it is where there is
# one, applies its own, and deletes it while they are stopped. endpoint/mod.rs watches that of an endpoint, endpoint/act.rs applies it.
- apiGroups: [""]
  resources: [services]
  verbs: [list, watch, create, patch, delete]
# operator/src/cluster/beside.rs does the same with the disruption budget of a gang; endpoint/mod.rs watches that of an endpoint, and
# endpoint/act.rs applies it.
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [list, watch, create, patch, delete]
# operator/src/cluster/news.rs publishes events.
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# operator/src/cluster/endpoint/mod.rs watches the Deployment of an endpoint; endpoint/act.rs reads it before a new revision, and
# applies it.
- apiGroups: [apps]
  resources: [deployments]
  verbs: [get, list, watch, create, patch]
# operator/src/cluster/endpoint/mod.rs watches the autoscaler of an endpoint; endpoint/act.rs applies it where one is asked for,
# and deletes it when it no longer is.
- apiGroups: [autoscaling]
  resources: [horizontalpodautoscalers]
  verbs: [list, watch, create, patch, delete]
{{- end }}

{{/* What the operator may do with its lease. */}}
{{- define "trainyard.leaseRules" -}}
# operator/src/cluster/lease.rs makes the lease where there is none yet. A right to create can't name what is created.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  verbs: [create]
# operator/src/cluster/lease.rs reads the lease, takes it, renews it and gives it back.
- apiGroups: [coordination.k8s.io]
  resources: [leases]
  resourceNames: [trainyard-operator]
  verbs: [get, update]
{{- end }}

{{/* What the operator may do with what has no namespace. */}}
{{- define "trainyard.clusterRules" -}}
# operator/src/cluster/mod.rs watches the nodes: jobs are placed by their GPUs and drivers, and restarted elsewhere when one
# is lost.
- apiGroups: [""]
  resources: [nodes]
  verbs: [list, watch]
{{- end }}
