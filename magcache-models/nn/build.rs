//! Compiles the kernels for NVIDIA GPUs, with the feature `cuda`.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "cuda")]
    cuda();
}

/// `rows.cu` to PTX, for the card that `CUDA_COMPUTE_CAP` names, as candle's kernels are.
#[cfg(feature = "cuda")]
fn cuda() {
    const SOURCE: &str = "src/cuda/rows.cu";
    println!("cargo::rerun-if-changed={SOURCE}");
    let compiler = cudaforge::KernelBuilder::new().source_files([SOURCE]).arg("-std=c++17").arg("-O3");
    compiler.build_ptx().expect("nvcc compiles the kernels");
    let card = cudaforge::detect_compute_cap().expect("CUDA_COMPUTE_CAP, or a card in this machine");
    println!("cargo::rustc-env=MAGCACHE_CUDA_ARCH={card}");
}
