{{- /* Fails where the Prometheus operator's resources are asked for, but unknown to the cluster. */ -}}
{{- define "trainyard.requirePrometheusOperator" -}}
{{- if not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1") }}
{{- fail "monitoring.serviceMonitor, podMonitor and alerts need the CRDs of the Prometheus operator (monitoring.coreos.com/v1), which this cluster lacks: install them, or leave them disabled" }}
{{- end }}
{{- end }}
