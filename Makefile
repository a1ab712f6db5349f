SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: gen
gen: ## regenerate stubs, descriptor set and contract docs from protos/
	rm -rf heimdall/*/v1/*_pb2*
	$(BIN)/buf generate
	rm -f heimdall/common/v1/*_pb2_grpc.*
	for s in fetcher dsp storage coordinator; do cp protos/heimdall/$$s/v1/$${s}_service_config.json heimdall/$$s/v1/; done
	$(BIN)/buf build --as-file-descriptor-set --exclude-source-info -o heimdall/heimdall.protoset#format=binpb
	$(BIN)/buf build --as-file-descriptor-set -o -#format=binpb | $(BIN)/python tools/contract_docs.py > docs/contracts.md
