.PHONY: demo test check setup docs bench emulator clean

# Installs what is missing (Debian packages, .venv); nothing the second time.
setup:
	@scripts/setup

# A small trained GPT-2 and a gpt-oss: graph IR, host code, text, a chat, PTX.
demo: setup
	@scripts/demo

# NVIDIA's assembler and Python are named, so that no test that needs them passes for want of them.
test: setup
	TESSERA_PTXAS="$$(echo "$$PWD"/.venv/lib/python3*/site-packages/nvidia/cu13/bin/ptxas)" \
	TESSERA_PYTHON="$$PWD/.venv/bin/python3" cargo test --workspace --quiet

# What CI asks of the source besides the tests.
check: setup
	cargo fmt --check
	cargo clippy --workspace --all-targets --quiet -- -D warnings

# Writes the reference pages that are generated from declarations (tests keep them current).
docs: setup
	TESSERA_BLESS=1 cargo test --workspace --quiet current

# The GPU that every machine has: target/release/libcuda.so.1, the CUDA driver API on the PTX emulator, and target/release/ptx-emulator.
emulator:
	cargo build --release --package ptx-emulator-driver --package ptx-emulator-command
	ln -sf libcuda.so target/release/libcuda.so.1

bench: setup
	cargo bench --workspace

clean:
	cargo clean
	rm -rf .venv
