{{- /* What every pod is, whoever counts the pods: a Deployment, or KServe. */ -}}
{{- define "icgan.pod" -}}
terminationGracePeriodSeconds: 60
securityContext:
  runAsNonRoot: true
  runAsUser: 1000
  seccompProfile: { type: RuntimeDefault }
  {{- if or .Values.engineCache .Values.signSecret }} # the server writes engines; key and socket are of its group
  fsGroup: 1000
  fsGroupChangePolicy: OnRootMismatch
  {{- end }}
automountServiceAccountToken: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{ toJson . }}
{{- end }}
{{- with .Values.spreadOver }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: { app.kubernetes.io/name: icgan, app.kubernetes.io/instance: {{ $.Release.Name }} }
{{- end }}
containers:
  - name: {{ ternary "kserve-container" "triton" .Values.kserve }}
    image: {{ .Values.image }}
    imagePullPolicy: {{ .Values.imagePullPolicy }}
    args:
      - --model-repository=/models
      - --model-control-mode=explicit
      - --load-model=*
      - --disable-auto-complete-config
      {{- if not .Values.gpus }}
      - --model-config-name=cpu
      {{- end }}
      {{- if .Values.traces }}
      - --trace-config=mode=opentelemetry
      - --trace-config=level=TIMESTAMPS
      - --trace-config=rate={{ .Values.traceEvery }}
      - --trace-config=opentelemetry,url={{ .Values.traces }}
      - --trace-config=opentelemetry,resource=service.name={{ .Release.Name }}
      {{- end }}
      - --http-restricted-api=model-repository,shared-memory,logging,trace:icgan-control=$(CONTROL_KEY)
      - --grpc-restricted-protocol=model-repository,shared-memory,logging,trace:icgan-control=$(CONTROL_KEY)
    env:
      - name: CONTROL_KEY
        valueFrom:
          secretKeyRef: { name: {{ .Values.controlSecret }}, key: key }
      {{- if .Values.signSecret }}
      - { name: ICGAN_SIGN_SOCKET, value: /run/icgan-signer/socket }
      {{- end }}
      {{- with .Values.env }}
      {{- toYaml . | nindent 6 }}
      {{- end }}
    ports:
      - { name: http, containerPort: 8000 }
      - { name: grpc, containerPort: 8001 }
      - { name: metrics, containerPort: 8002 }
    resources:
      requests: { cpu: {{ .Values.cpu }}, memory: {{ .Values.memory }} }
      limits:
        memory: {{ .Values.memory }}
        {{- if .Values.gpus }}
        nvidia.com/gpu: {{ .Values.gpus }}
        {{- end }}
    securityContext:
      { allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: { drop: [ALL] } }
    startupProbe: # engines load and warm up
      httpGet: { path: /v2/health/ready, port: http }
      periodSeconds: 5
      failureThreshold: {{ div (int .Values.startupSeconds) 5 }}
    readinessProbe: # a real request: the server stays "ready" when a python model has died
      exec:
        command: [curl, --noproxy, "*", -sf, -m, "10", -d, "@/models/canary.json", "http://localhost:8000/v2/models/icgan_canary/generate"]
      periodSeconds: 10
      timeoutSeconds: 12
      failureThreshold: 2
    livenessProbe: # a dead stage, or a dead server; an overloaded one refuses the canary too, and must not be restarted
      exec:
        command:
          - sh
          - -c
          - >-
            curl --noproxy '*' -sf -m 5 http://localhost:8000/v2/health/live || exit 1;
            ! curl --noproxy '*' -s -m 10 -d @/models/canary.json http://localhost:8000/v2/models/icgan_canary/generate
            | grep -q "is not healthy"
      periodSeconds: 20
      timeoutSeconds: 17
      failureThreshold: 4
    lifecycle:
      preStop: # told to end, the server would refuse the later steps of ensemble requests under way
        exec:
          command:
            - sh
            - -c
            - >-
              sleep 5;
              for model in icgan icgan_file icgan_from_pixels icgan_from_embedding icgan_canary; do
              curl --noproxy '*' -s -X POST -H "icgan-control: $CONTROL_KEY" localhost:8000/v2/repository/models/$model/unload;
              done; sleep 10
    volumeMounts:
      - name: models
        mountPath: /models
        readOnly: true
        {{- if or .Values.bundleImage .Values.bundleArtifact }}
        subPath: repository # made by the job of bundle.yaml
        {{- end }}
      {{- if .Values.engineCache }}
      - { name: engines, mountPath: /engines }
      {{- end }}
      {{- if .Values.signSecret }}
      - { name: signer, mountPath: /run/icgan-signer, readOnly: true }
      {{- end }}
      - { name: shared-memory, mountPath: /dev/shm }
      - { name: scratch, mountPath: /tmp }
  {{- if .Values.signSecret }}
  - name: signer # alone has the key, as a user of its own: stages that decode strangers' pictures ask it to sign
    image: {{ .Values.image }}
    imagePullPolicy: {{ .Values.imagePullPolicy }}
    command: [icgan, signer, --key, /run/icgan-sign/key.pem, --socket, /run/icgan-signer/socket]
    resources:
      requests: { cpu: 100m, memory: 256Mi }
      limits: { memory: 256Mi }
    securityContext:
      runAsUser: 1001
      allowPrivilegeEscalation: false
      readOnlyRootFilesystem: true
      capabilities: { drop: [ALL] }
    lifecycle:
      preStop: # the server's requests in flight are signed, too
        exec: { command: [sleep, "30"] }
    volumeMounts:
      - { name: sign, mountPath: /run/icgan-sign, readOnly: true }
      - { name: signer, mountPath: /run/icgan-signer }
  {{- end }}
volumes:
  - name: models
    persistentVolumeClaim: { claimName: {{ .Values.models }}, readOnly: true }
  {{- with .Values.engineCache }}
  - name: engines
    persistentVolumeClaim: { claimName: {{ . }} }
  {{- end }}
  {{- with .Values.signSecret }}
  - name: sign
    secret: { secretName: {{ . }}, defaultMode: 0440 }
  - name: signer
    emptyDir: { medium: Memory, sizeLimit: 1Mi }
  {{- end }}
  - name: shared-memory
    emptyDir: { medium: Memory, sizeLimit: {{ .Values.sharedMemory }} }
  - name: scratch
    emptyDir: {}
{{- end }}
