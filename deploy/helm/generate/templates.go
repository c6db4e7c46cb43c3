package main

import (
	"path/filepath"
	"strings"
)

// namespace is that of the kustomization; a chart goes where it is told to.
const namespace = `{{ .Release.Namespace }}`

func templates() ([]template, error) {
	all := []template{
		{from: "rbac/ipamd.yaml", to: "ipamd-rbac.yaml", places: []place{
			{"namespace: clearway-system}", `namespace: "` + namespace + `"}`},
		}},
		ipamd(),
		{from: "base/agent-rbac.yaml"},
		agent(),
		{from: "base/networkpolicy.yaml"},
		{from: "overlays/cert-manager/certificates.yaml", when: ".Values.certManager.enabled", places: []place{
			{"    - clearway-ipamd.clearway-system.svc\n", "    - clearway-ipamd." + namespace + ".svc\n"},
			{"    - clearway-ipamd.clearway-system.svc.cluster.local\n", "    - clearway-ipamd." + namespace + ".svc.cluster.local\n"},
		}},
	}
	definitions, err := filepath.Glob(filepath.Join(source, "crds", "*.clearway.io.yaml"))
	if err != nil {
		return nil, err
	}
	for _, file := range definitions {
		name := filepath.Base(file)
		all = append(all, template{
			from: "crds/" + name, to: "crd-" + strings.TrimSuffix(name, ".clearway.io.yaml") + ".yaml",
			when: ".Values.crds.install", keep: true, // with a definition all resources of its kind would go
		})
	}
	return all, nil
}

// either is one text with an etcd of ipamd's own, and another with the one of the cluster's.
func either(embedded, external string) string {
	return "{{- if .Values.etcd.embedded }}\n" + embedded + "{{- else }}\n" + external + "{{- end }}\n"
}

func onlyExternal(text string) place {
	return place{text, "{{- if not .Values.etcd.embedded }}\n" + text + "{{- end }}\n"}
}

// resources are what a container asks for, which values.yaml says again as its default.
func resources(of, text string) place {
	return place{text, "          resources:\n            {{- toYaml .Values." + of + ".resources | nindent 12 }}\n"}
}

const (
	image      = `{{ include "clearway.image" . }}`
	policy     = "          {{- with .Values.image.pullPolicy }}\n          imagePullPolicy: {{ . }}\n          {{- end }}\n"
	pullSecret = "      {{- with .Values.imagePullSecrets }}\n      imagePullSecrets:\n        {{- toYaml . | nindent 8 }}\n      {{- end }}\n"
	moreArgs   = "            {{- range .Values.%.extraArgs }}\n            - {{ . | quote }}\n            {{- end }}\n"
)

func extraArgs(of string) string { return strings.ReplaceAll(moreArgs, "%", of) }

func ipamd() template {
	return template{from: "base/ipamd.yaml", places: []place{
		{"  replicas: 3 #", "  replicas: {{ if .Values.etcd.embedded }}1{{ else }}{{ .Values.ipamd.replicas }}{{ end }} #"},
		{
			"    rollingUpdate: {maxSurge: 0, maxUnavailable: 1} # the port is the host's: a new one takes the place of an old one\n",
			either("    type: Recreate # two must not have one folder\n",
				"    rollingUpdate: {maxSurge: 0, maxUnavailable: 1} # the port is the host's: a new one takes the place of an old one\n"),
		},
		{
			"      serviceAccountName: clearway-ipamd\n",
			"      serviceAccountName: clearway-ipamd\n" + pullSecret +
				"      {{- if .Values.etcd.embedded }}\n      nodeSelector: {clearway.io/ipamd: \"\"}\n      {{- end }}\n",
		},
		{
			"        runAsNonRoot: true\n        runAsUser: 65532\n        runAsGroup: 65532\n",
			either("        runAsNonRoot: false # the folder on the host is root's\n        runAsUser: 0\n        runAsGroup: 0\n",
				"        runAsNonRoot: true\n        runAsUser: 65532\n        runAsGroup: 65532\n"),
		},
		{"          image: clearway\n", "          image: " + image + "\n" + policy},
		{
			"            - --etcd-endpoints=$(ETCD_ENDPOINTS)\n            - --etcd-cert=/etc/clearway/etcd/tls.crt\n" +
				"            - --etcd-key=/etc/clearway/etcd/tls.key\n            - --etcd-ca=/etc/clearway/etcd/ca.crt\n",
			either("            - --data-dir=/var/lib/clearway-ipamd\n",
				"            - --etcd-endpoints=$(ETCD_ENDPOINTS)\n            - --etcd-cert=/etc/clearway/etcd/tls.crt\n"+
					"            - --etcd-key=/etc/clearway/etcd/tls.key\n            - --etcd-ca=/etc/clearway/etcd/ca.crt\n"),
		},
		{
			"            - --agent-service-account=clearway-system/clearway-agent\n            - --metrics-listen=$(HOST_IP):7471\n",
			"            - --agent-service-account=" + namespace + "/clearway-agent\n            - --metrics-listen=$(HOST_IP):7471\n" + extraArgs("ipamd"),
		},
		onlyExternal("            - name: ETCD_ENDPOINTS\n              valueFrom: {configMapKeyRef: {name: clearway-ipamd, key: etcd-endpoints}}\n"),
		{
			"    metadata:\n      labels: {app.kubernetes.io/name: clearway-ipamd}\n",
			"    metadata:\n      labels: {app.kubernetes.io/name: clearway-ipamd}\n      annotations: # other endpoints are taken by a new Pod\n" +
				"        checksum/etcd: {{ .Values.etcd.endpoints | toJson | sha256sum }}\n",
		},
		resources("ipamd", "          resources:\n            requests: {cpu: 100m, memory: 128Mi}\n            limits: {memory: 1Gi}\n"),
		{
			"            - {name: etcd, mountPath: /etc/clearway/etcd, readOnly: true}\n",
			either("            - {name: data, mountPath: /var/lib/clearway-ipamd}\n", "            - {name: etcd, mountPath: /etc/clearway/etcd, readOnly: true}\n"),
		},
		{
			"        - name: etcd\n          secret: {secretName: clearway-etcd-client-tls, defaultMode: 0440}\n",
			either("        - name: data\n          hostPath: {path: /var/lib/clearway-ipamd, type: DirectoryOrCreate}\n",
				"        - name: etcd\n          secret: {secretName: clearway-etcd-client-tls, defaultMode: 0440}\n"),
		},
		onlyExternal("---\napiVersion: policy/v1\nkind: PodDisruptionBudget\nmetadata:\n  name: clearway-ipamd\nspec:\n  maxUnavailable: 1\n" +
			"  selector:\n    matchLabels: {app.kubernetes.io/name: clearway-ipamd}\n"),
	}}
}

func agent() template {
	return template{from: "base/agent.yaml", places: []place{
		{
			"    metadata:\n      labels: {app.kubernetes.io/name: clearway-agent}\n",
			"    metadata:\n      labels: {app.kubernetes.io/name: clearway-agent}\n      annotations: # a changed configuration is installed by a new Pod\n" +
				"        checksum/conflist: {{ .Values.cni.conflist | sha256sum }}\n",
		},
		{
			"      serviceAccountName: clearway-agent\n",
			"      serviceAccountName: clearway-agent\n" + pullSecret +
				"      {{- with .Values.agent.nodeSelector }}\n      nodeSelector:\n        {{- toYaml . | nindent 8 }}\n      {{- end }}\n",
		},
		{
			"      tolerations:\n        - {operator: Exists} # every node has Pods\n",
			"      tolerations: # every node has Pods\n        {{- toYaml .Values.agent.tolerations | nindent 8 }}\n",
		},
		{"          image: clearway\n          command: [clearway-agent, cni, install]\n", "          image: " + image + "\n" + policy + "          command: [clearway-agent, cni, install]\n"},
		{"          image: clearway\n          command: [clearway-agent]\n", "          image: " + image + "\n" + policy + "          command: [clearway-agent]\n"},
		{"          image: clearway\n          command: [clearway-agent, bfd]\n", "          image: " + image + "\n" + policy + "          command: [clearway-agent, bfd]\n"},
		{"clearway-ipamd.clearway-system.svc\n", "clearway-ipamd." + namespace + ".svc\n"},
		{"            - --metrics-listen=127.0.0.1:7472\n", "            - --metrics-listen=127.0.0.1:7472\n" + extraArgs("agent")},
		resources("agent", "          resources:\n            requests: {cpu: 100m, memory: 128Mi}\n            limits: {memory: 1Gi}\n"),
		resources("bfd", "          resources:\n            requests: {cpu: 20m, memory: 32Mi}\n            limits: {memory: 128Mi}\n"),
	}}
}
