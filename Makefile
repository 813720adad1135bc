# Every target works in .venv/ of this checkout, made on demand: first with what the demo needs, and for the other
# targets with what they need beyond that. `make` alone lists them.
.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= python3
BIN := .venv/bin
SERVE_BIN := .venv-serve/bin
# containers set it; every process that loads torch would compile its sources anew, for ten seconds
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help dist env serve-env demo test lint test-python test-gpu bench bounds profile bench-gpu bench-triton bench-ceiling bench-edge compatibility test-edge web docs findings train-demo pack-demo train-cifar10 pack-cifar10 bundle-cifar10 finetune study study-gpu augmentation draws prior transfer label-swap clean lock audit sbom faults fuzz soak chaos mutation

help: ## list the targets
	@awk -F ':.*## ' '/^##@ /{print "\n" substr($$0, 5)} /^[a-z][a-zA-Z0-9_-]*:.*## /{printf "  %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

##@ every day

# where torch comes from; make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu spares the CUDA libraries
TORCH_INDEX ?=
# compiled when they are imported: most files of these packages never are
INSTALL := $(BIN)/pip install --disable-pip-version-check --no-compile

.venv/.demo: pyproject.toml requirements-demo.lock
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed: make PYTHON=python3.12 …" if sys.version_info < (3, 11) else 0)'
	@echo "installing torch, ONNX Runtime and what they need into .venv: once, some 300 MB to fetch"
	$(PYTHON) -m venv .venv
	$(INSTALL) --require-hashes --no-deps -r requirements-demo.lock # whole, but for torch
	$(INSTALL) -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX) --no-deps) torch==2.13.0 # without a hash: see the lock
	$(INSTALL) --quiet --no-deps -e .
	touch $@

env: .venv/.stamp ## make .venv with everything but the server
.venv/.stamp: .venv/.demo requirements.lock
	@echo "adding what training, tests and documentation need: once, some 500 MB to fetch"
	$(INSTALL) --require-hashes --no-deps -r requirements.lock
	$(INSTALL) --no-deps -c constraints.txt timm # its torchvision would not load beside torch of a CPU
	touch $@

serve-env: .venv-serve/.stamp ## make .venv-serve with the embedded Triton server (it pins numpy<2)
.venv-serve/.stamp: pyproject.toml
	@echo "installing the embedded Triton server into .venv-serve: once"
	$(PYTHON) -m venv .venv-serve
	$(SERVE_BIN)/pip install --disable-pip-version-check -e '.[serve,openvino]'
	touch $@

# what a bundle of the shipped weights comes from: a second `make demo` makes only what is older than this
BUNDLE_SOURCES := $(shell find export/icgan_export runtime/icgan_runtime training/icgan_training -name '*.py' 2> /dev/null) \
    $(shell find models/demo models/encoders 2> /dev/null)

demo: demo/report.txt ## main job: export the shipped weights, generate pictures like the example photos
	@tail -n 1 demo/report.txt
	@echo "look at demo/grid.png; demo/report.txt says what was checked"

bundles/demo/manifest.json: .venv/.demo $(BUNDLE_SOURCES)
	$(BIN)/icgan-export bundle models/demo --out bundles/demo

demo/report.txt: bundles/demo/manifest.json $(wildcard examples/photos/*.jpg)
	$(BIN)/icgan generate bundles/demo examples/photos/*.jpg -n 8 --seed 0 --out demo/grid.png
	$(BIN)/icgan info --verify bundles/demo > demo/report.txt

test: lint test-python ## everything CI runs: style, types, tests

# the stages that the server runs in Python: one call each, for they share the name model
STAGES := $(wildcard triton_models/*/1/model.py triton_models/backends/*/model.py)

lint: .venv/.stamp ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	for model in $(STAGES); do $(BIN)/mypy $$model || exit 1; done

test-python: .venv/.stamp .venv-serve/.stamp
	# a file stays in one process, as its models and servers do; the long ones come first. Real servers on a busy
	# machine: what has not passed gets one second try, by itself, and fails for good if it fails again. That is what
	# failed (status 1), and where a process was lost (3) also what nobody has run yet: with another one in its
	# place pytest-xdist would wait for ever
	$(BIN)/pytest -q -m 'not gpu' -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --max-worker-restart 0 \
	    || case $$? in 1|3) $(BIN)/pytest -q -m 'not gpu' --left -n 1 --max-worker-restart 0;; *) exit 1;; esac

# the library of the plans: tensorrt, or tensorrt-rtx
TENSORRT ?= tensorrt

test-gpu: .venv/.gpu-$(TENSORRT) .venv-serve/.stamp ## the tests that need a GPU (TENSORRT=tensorrt-rtx: with that library)
	ICGAN_TRT_LIBRARY=$(subst -,_,$(TENSORRT)) $(BIN)/pytest -q -m gpu

.venv/.gpu-$(TENSORRT): .venv/.bench
	$(BIN)/pip install --quiet -c constraints.txt 'cuda-python>=12.6' $(TENSORRT)
	touch $@

test-edge: .venv/.stamp ## the examples alone: browser (Debian's chromium), Node, C++; installs what they need
	tests/edge/install.sh
	$(BIN)/pytest -q tests/edge

web: bundles/web/manifest.json examples/node_modules/.stamp ## build the web page around a small INT8 bundle and serve it on localhost:8080
	node examples/web/build.mjs bundles/web demo/web
	node examples/web/serve.mjs demo/web 8080

bundles/web/manifest.json: .venv/.demo $(BUNDLE_SOURCES)
	$(BIN)/icgan-export bundle models/demo --precision fp32,int8 --thumbnails 48 --out bundles/web

examples/node_modules/.stamp: examples/package-lock.json
	cd examples && npm ci --ignore-scripts --no-audit --no-fund
	touch $@

docs: .venv/.stamp ## the site: guides, reports, references from docstrings and --help (site/index.html)
	$(BIN)/mkdocs build --strict --quiet
	@echo "look at it: $(BIN)/python -m http.server -d site 8080"

clean: ## remove bundles, reports and caches (environments, data, runs, fuzz/ and sbom/ stay)
	rm -rf bundles demo bench mutation site model_repository .mypy_cache .ruff_cache .pytest_cache

##@ train

# fetch refuses a folder that is there, and leaves none that is not whole: stopped, the same target goes on
data/groceries data/cifar10 data/fluent-emoji: | .venv/.stamp
	$(BIN)/icgan-train fetch $(@F) --out $@

data/groceries64/dataset.json: | data/groceries
	$(BIN)/icgan-train prepare data/groceries --resolution 64 --encoder efficientnet-lite0 --neighbours 10 --out data/groceries64

train-demo: .venv/.stamp data/groceries64/dataset.json ## train the shipped weights again from scratch (under an hour on 2 cores)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/icgan-train fit data/groceries64 --preset demo64 --out runs/demo64

finetune: .venv/.bench ## small sets from the demo's weights against from scratch, at equal processor time (bench/finetune)
	$(BIN)/python -m benchmarks.finetune --out bench/finetune

data/cifar10-32/dataset.json: | data/cifar10
	$(BIN)/icgan-train prepare data/cifar10 --resolution 32 --encoder efficientnet-lite0 --input-size 160 --neighbours 500 --out data/cifar10-32

train-cifar10: .venv/.stamp data/cifar10-32/dataset.json ## train the shipped CIFAR-10 weights again from scratch (about an hour of one core)
	GLIBC_TUNABLES=glibc.malloc.hugetlb=1 $(BIN)/icgan-train fit data/cifar10-32 --preset cifar10 --images 240k \
	    --set neighbours=50 --set ch=16 --set batch_size=8 --set discriminator_steps=1 --set shared_dim_feat=128 \
	    --set generator_lr=2e-4 --set discriminator_lr=4e-4 --set beta2=0.99 --set 'diffaugment=["translation"]' \
	    --set ema_decay=0.9995 --set ema_start=300 --set tick_images=5000 --out runs/cifar10

pack-demo: .venv/.stamp ## make the shipped directory out of the trained run
	$(BIN)/python models/pack.py runs/demo64 data/groceries64 models/demo

pack-cifar10: .venv/.stamp ## the same for the CIFAR-10 run, without pictures: their licence is not stated
	$(BIN)/python models/pack.py runs/cifar10 data/cifar10-32 models/cifar10 --instances 0 --sheet docs/images/cifar10.png

bundle-cifar10: .venv/.stamp data/cifar10-32/dataset.json ## bundle of the shipped CIFAR-10 weights with 1,000 instances fetched here
	$(BIN)/icgan-export bundle models/cifar10 --bank data/cifar10-32 --out bundles/cifar10

study: .venv/.bench data/cifar10-32/dataset.json ## the paper's comparison on CIFAR-10, at a size for CPUs (resumable; some 7 core-hours with bfloat16, twice that without)
	$(BIN)/python -m benchmarks.study data/cifar10-32 --budget cpu --out runs/study

study-gpu: .venv/.bench data/cifar10-32/dataset.json ## the same with a GPU's budget
	$(BIN)/python -m benchmarks.study data/cifar10-32 --budget gpu --out runs/study-gpu

# a model of CIFAR-10 conditioned on instances
RUN ?= models/cifar10
augmentation: .venv/.bench data/cifar10-32/dataset.json ## what RUN's variations are worth to a classifier with 1,000 labels (bench/augmentation)
	$(BIN)/python -m benchmarks.augmentation $(RUN) data/cifar10-32 --labelled 1000 --seeds 3 --out bench/augmentation

prior: .venv/.bench data/groceries64/dataset.json ## instances that a prior draws beside stored ones (an hour of one core)
	$(BIN)/python -m benchmarks.prior models/demo data/groceries64 --seeds 2 --out benchmarks/results/prior

draws: .venv/.bench data/cifar10-32/dataset.json ## what stored instances and truncated noise do to RUN's samples (bench/draws)
	$(BIN)/python -m benchmarks.draws $(RUN) data/cifar10-32 --out bench/draws

data/emoji64/dataset.json: | data/fluent-emoji
	$(BIN)/icgan-train prepare data/fluent-emoji --resolution 64 --encoder efficientnet-lite0 --neighbours 10 --out data/emoji64

data/emoji32/dataset.json: data/emoji64/dataset.json
	$(BIN)/icgan-train prepare data/fluent-emoji --resolution 32 --encoder efficientnet-lite0 --input-size 160 --neighbours 10 --out data/emoji32

transfer: .venv/.stamp data/emoji64/dataset.json data/emoji32/dataset.json ## both models with instances they never saw: sheets and scores (bench/transfer)
	$(BIN)/icgan-train evaluate models/demo --data data/emoji64 --metrics instance --samples 1000 --instances 0 --out bench/transfer
	$(BIN)/icgan-train evaluate models/cifar10 --data data/emoji32 --metrics instance --samples 1000 --instances 0 --out bench/transfer-cifar10

# a run of CIFAR-10 conditioned on classes and instances
CC_RUN ?= runs/study/cifar10-cc-seed0
label-swap: .venv/.stamp ## the same instances with other labels, by CC_RUN (bench/label-swap)
	$(BIN)/icgan-train evaluate $(CC_RUN) --metrics instance,labels --samples 1000 --instances 0 --out bench/label-swap

##@ measure

.venv/.bench: .venv/.stamp
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

bench: .venv/.bench ## the generator against torch and plain exports, and each rewrite alone (reports in bench/)
	$(BIN)/python -m benchmarks.generator --weights models/demo --batch 1 8 32 --threads 1 2 --memory --out bench/demo
	$(BIN)/python -m benchmarks.generator --resolution 128 --ch 64 --batch 1 8 --threads 2 --memory --out bench/128
	$(BIN)/python -m benchmarks.generator --resolution 256 --ch 64 --batch 1 --threads 2 --rounds 7 --memory --out bench/256
	$(BIN)/python -m benchmarks.generator --resolution 128 --ch 64 --batch 1 8 --threads 2 --ablation --out bench/ablation

bounds: .venv/.bench ## the bounds of docs/export.md on random generators of the published sizes, 64 to 256 px (bench/bounds)
	$(BIN)/python -m benchmarks.bounds --out bench/bounds

profile: .venv/.bench ## where a generator's time goes, and what each encoder rewrite gains (bench/profile, bench/encoder)
	$(BIN)/python -m benchmarks.profile --resolution 128 --ch 64 --batch 1 8 --out bench/profile
	$(BIN)/python -m benchmarks.encoder --weights models/demo --batch 1 8 --threads 1 --out bench/encoder

bench-gpu: .venv/.gpu-$(TENSORRT) ## on a machine with a GPU: plain TensorRT and torch against our plans (bench/gpu)
	$(BIN)/python -m benchmarks.gpu --weights models/demo --out bench/gpu/demo
	$(BIN)/python -m benchmarks.gpu --resolution 128 --ch 96 --out bench/gpu/128
	$(BIN)/python -m benchmarks.gpu --resolution 256 --ch 96 --out bench/gpu/256

bench-triton: .venv/.bench .venv-serve/.perf bundles/demo/manifest.json ## the served ensemble against the chain in one process; load (bench/triton)
	$(BIN)/python -m benchmarks.serving bundles/demo examples/photos/oranges.jpg --perf-analyzer .venv-serve/perf/perf_analyzer --out bench/triton
	$(BIN)/python -m benchmarks.serving bundles/demo examples/photos/oranges.jpg --generators 2 --out bench/triton2

# another checkout to compare with: make bench-ceiling AGAINST=../before
CEILING = $(BIN)/python -m benchmarks.ceiling --rounds 2 --seconds 1.5
BEFORE = $(if $(AGAINST),--against $(AGAINST))

bench-ceiling: .venv/.bench .venv-serve/.stamp ## what surrounds the networks: a server whose networks are free (bench/ceiling)
	$(CEILING) $(BEFORE) --out bench/ceiling/64
	$(CEILING) $(BEFORE) --protocols http --out bench/ceiling/64-http
	$(CEILING) $(BEFORE) --protocols shared --scenarios embedding --out bench/ceiling/64-shared
	$(CEILING) $(BEFORE) --protocols grpc,http,shared --resolution 256 --scenarios embedding --out bench/ceiling/256
	$(CEILING) $(BEFORE) --width 1280 --bank 100000 --scenarios embedding --out bench/ceiling/100k
	# the other checkout, if it is older than the stored index, would take 22 s to start and 10 GB
	$(CEILING) --width 1280 --bank 1000000 --serve '--search faiss-ivf' --scenarios embedding --out bench/ceiling/1m
	$(CEILING) $(BEFORE) --cores 0 --clients 64 --out bench/ceiling/one-core

# NVIDIA's client: the last wheel that holds it, beside libraries that the server's wheel brings along
.venv-serve/.perf: .venv-serve/.stamp
	$(SERVE_BIN)/pip download --quiet --no-deps --only-binary=:all: --platform manylinux1_x86_64 --dest .venv-serve/perf tritonclient==2.51.0
	$(SERVE_BIN)/python -m zipfile -e .venv-serve/perf/tritonclient-2.51.0-*.whl .venv-serve/perf
	mv .venv-serve/perf/*.data/data/bin/perf_analyzer .venv-serve/perf/ && chmod +x .venv-serve/perf/perf_analyzer
	libraries=$$(echo "$$PWD"/.venv-serve/lib/python*/site-packages/nvidia_pytriton.libs); \
	    ln -sf $$libraries/libb64-*.so* .venv-serve/perf/libb64.so.0d; \
	    ln -sf $$libraries/libcudart-*.so* .venv-serve/perf/libcudart.so.12
	touch $@

compatibility: .venv/.stamp ## the demo's graphs in every optimiser and runtime of other people (bench/compatibility; installs them)
	test -f bundles/edge/manifest.json || $(BIN)/icgan-export bundle models/demo --precision fp32,fp16,int8 --out bundles/edge
	$(BIN)/python -m benchmarks.compatibility bundles/edge --out bench/compatibility

bench-edge: .venv/.bench examples/node_modules/.stamp ## the demo at every precision on the runtimes of devices (bench/edge)
	$(BIN)/icgan-export bundle models/demo --precision fp32,fp16,int8 --out bundles/edge
	$(BIN)/python -m benchmarks.edge bundles/edge --out bench/edge

##@ break

faults: .venv/.stamp ## kill every command at every step of its writing, and fill its disk (needs cc)
	$(BIN)/python -m tests.abuse.faults --out bench/abuse/faults.json

fuzz: .venv/.fuzz ## a million damaged pictures, guided by coverage, through the decoder
	$(BIN)/python -m tests.abuse.fuzz_decode fuzz/ -runs=1000000 -max_len=16384

.venv/.fuzz: .venv/.stamp
	$(BIN)/pip install --quiet -e '.[fuzz]'
	touch $@

soak: .venv/.stamp .venv-serve/.stamp bundles/demo/manifest.json ## 64 good and bad clients against the real server for 30 minutes
	$(BIN)/python -m tests.abuse.soak bundles/demo examples/photos/*.jpg --clients 64 --minutes 30 --out bench/abuse

chaos: .venv/.stamp .venv-serve/.stamp bundles/demo/manifest.json ## 16 clients for 10 minutes while stages of the server are killed
	$(BIN)/python -m tests.abuse.soak bundles/demo examples/photos/*.jpg --clients 16 --minutes 10 --kill-every 20 --out bench/abuse

mutation: .venv/.mutation ## small mistakes in the runtime and the rewrites: which would the tests notice? (bench/mutation.md)
	nice -n 5 $(BIN)/python -m benchmarks.mutation --sample 35 --seed 0 --out bench/mutation.md

.venv/.mutation: .venv/.stamp
	$(BIN)/pip install --quiet -e '.[mutation]'
	touch $@

##@ release

dist: .venv/.stamp ## wheel and sdist of the commit that is checked out (dist/)
	rm -rf dist build/dist && mkdir -p build/dist
	git archive HEAD | tar -x -C build/dist
	cd build/dist && $(abspath $(BIN))/python -m hatchling build --directory ../../dist
	@ls -l dist

# torch's wheel depends on the machine (CPU, CUDA) and on the index it comes from: one list of hashes cannot cover
# them, and with it go the CUDA libraries that only some of its wheels ask for
UNHASHED := torch triton $(addprefix cuda-,bindings pathfinder toolkit) $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc \
    cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)

LOCKING := .venv-tools/bin/uv pip compile pyproject.toml -c constraints.txt --universal --python-version 3.11 \
    --generate-hashes --no-header --no-annotate --quiet $(addprefix --no-emit-package ,$(UNHASHED))

lock: .venv-tools/.stamp ## write both locks anew: the versions of constraints.txt with the hashes of all their files
	$(LOCKING) $(addprefix --extra ,cpu faiss triton train evaluate export docs heif hdf5 parquet origin sign dev) \
	    -o requirements.lock
	$(LOCKING) $(addprefix --extra ,cpu faiss export) -o requirements-demo.lock

audit: .venv-tools/.stamp ## known vulnerabilities of what the lock installs (asks the index's database)
	.venv-tools/bin/pip-audit --requirement requirements.lock --require-hashes --no-deps

sbom: .venv/.stamp .venv-tools/.stamp ## CycloneDX list of what is installed: sbom/icgan.cdx.json
	mkdir -p sbom
	.venv-tools/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible -o sbom/icgan.cdx.json .venv

.venv-tools/.stamp:
	$(PYTHON) -m venv .venv-tools
	.venv-tools/bin/pip install --quiet uv cyclonedx-bom pip-audit
	touch $@

findings: ## run every script of findings/: does outside software still behave as described? (installs packages)
	@shopt -s nullglob; for script in findings/*.sh; do echo "== $$script"; "$$script" || exit 1; done
