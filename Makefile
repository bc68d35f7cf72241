# Two commands: "make demo" does the main job, "make test" passes all tests. Both set up what they need.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

VENV := build/venv
PYTHON := $(VENV)/bin/python
PLAYBOOK := $(VENV)/bin/ansible-playbook
COLLECTIONS := build/collections
INVENTORY ?= inventories/simulation
# A tree of SPDK with build/bin/spdk_tgt: real SPDK instead of the emulator. Without either, the inventory says which engine.
override SPDK_PREFIX := $(abspath $(SPDK_PREFIX))
override ENGINE := $(or $(ENGINE),$(if $(SPDK_PREFIX),spdk))
VARIABLES := $(if $(ENGINE),--extra-vars "ipdk_engine=$(ENGINE)") \
  $(if $(SPDK_PREFIX),--extra-vars "spdk_prefix='$(SPDK_PREFIX)'")
# When make began: the demo reports how long the set-up took.
STARTED := $(shell date +%s.%N)

export ANSIBLE_CONFIG := $(CURDIR)/ansible.cfg
export ANSIBLE_COLLECTIONS_PATH := $(CURDIR)/$(COLLECTIONS)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help
help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/make \1\t\2/' | expand -t 20

.PHONY: demo
demo: prefix setup ## Deploy a lab, attach 64 disks (DISKS=128: 128), run verified I/O, show the result
	@$(PYTHON) scripts/demo --inventory $(INVENTORY) $(if $(ENGINE),--engine $(ENGINE)) --spdk-prefix "$(SPDK_PREFIX)" --started $(STARTED) $(if $(DISKS),--disks $(DISKS))

.PHONY: test
test: setup setup-test ## Pass all tests (SUITES="unit sanity" for some of them)
	@$(PYTHON) tests/run $(SUITES)

.PHONY: test-spdk
test-spdk: PREFIX_WANTED := yes
test-spdk: prefix setup setup-test ## Pass the tests that need an engine on the SPDK built at SPDK_PREFIX
	@$(PYTHON) tests/run --spdk-prefix "$(SPDK_PREFIX)" $(SUITES)

.PHONY: bench
bench: prefix setup setup-test ## Measure; writes build/bench.json (with SPDK_PREFIX: build/bench-spdk.json)
	@$(PYTHON) tests/bench/run $(if $(SPDK_PREFIX),--spdk-prefix "$(SPDK_PREFIX)")

.PHONY: lab disks
lab: prefix setup ## Deploy the lab and leave it running
	@$(PLAYBOOK) -i $(INVENTORY) $(VARIABLES) playbooks/lab.yml playbooks/deploy.yml
disks: prefix setup ## Converge the virtual disks of the inventory
	@$(PLAYBOOK) -i $(INVENTORY) $(VARIABLES) playbooks/disks.yml

.PHONY: clean-lab
clean-lab: setup ## Remove every container, network, volume and process of the lab, and nothing else
	@$(PLAYBOOK) -i $(INVENTORY) playbooks/teardown.yml

.PHONY: clean
clean: ## Remove what the commands above built in this checkout
	rm -rf build

# Asked before anything is installed or removed.
.PHONY: prefix
prefix:
	@if [ -n "$(PREFIX_WANTED)$(SPDK_PREFIX)" ] && [ ! -x "$(SPDK_PREFIX)/build/bin/spdk_tgt" ]; then \
	  echo "SPDK_PREFIX is '$(SPDK_PREFIX)': name the directory of a built SPDK, one with build/bin/spdk_tgt" >&2; exit 1; \
	fi

.PHONY: setup setup-test
setup: build/apt.stamp build/venv.stamp $(COLLECTIONS)/ansible_collections/ipdk/storage
setup-test: build/apt-test.stamp

# Missing packages only, so that an ordinary user can work where an administrator has installed them.
build/apt.stamp build/apt-test.stamp: bindep.txt scripts/apt-install
	@mkdir -p build
	@scripts/apt-install $(if $(findstring test,$@),test)
	@touch $@

# The distribution's interpreter, whose packages bindep.txt names; another one that comes first in PATH may be much slower.
build/venv.stamp: requirements.txt build/apt.stamp
	@echo "Installing the Python packages of requirements.txt into $(VENV)"
	@/usr/bin/python3 -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --quiet --disable-pip-version-check --no-compile -r requirements.txt
	@$(VENV)/bin/python -m compileall -qq -j 0 $(VENV)/lib  # pip would do it with one processor
	@touch $@

# Ansible finds a collection by its path: …/ansible_collections/ipdk/storage
$(COLLECTIONS)/ansible_collections/ipdk/storage:
	@mkdir -p $(@D)
	@ln -sfn $(CURDIR) $@
