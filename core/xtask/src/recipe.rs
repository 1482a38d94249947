//! What libtorch is made of: which wheels, which of their files, and where those go.
//!
//! The libraries for C++ are published inside the wheels of the Python package. They are the
//! same for every version of Python; 3.11 stands for all of them.

use crate::wheel::{Pick, Wheel};

/// The libtorch that the bindings in use are written for; they accept no other.
pub(crate) const TORCH_VERSION: &str = "2.11.0";

/// One way of laying out libtorch on disk.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// Folder in the cache. Finished copies are told apart by it: change it with the layout.
    pub(crate) name: &'static str,
    /// Where in that folder `include` and `lib` lie; empty for the folder itself.
    pub(crate) home: &'static str,
    pub(crate) wheels: &'static [Wheel],
    /// Links to add, each a path and the neighbour it leads to.
    pub(crate) links: &'static [(&'static str, &'static str)],
    /// Files without which building or running would fail, checked after unpacking.
    pub(crate) expected: &'static [&'static str],
    /// Room needed while wheels and unpacked files lie side by side, in bytes.
    pub(crate) needed_bytes: u64,
}

/// Everything for the processor, and nothing for graphics cards: 440 MB.
///
/// `libtorch_cpu.so` of the published build loads the CUDA runtime and its profiling interface
/// even where there is no graphics card, so those two small libraries belong here. `libtorch.so`
/// holds nothing but a list of libraries, the CUDA one among them: the linker is given
/// `libtorch_cpu.so` under that name instead.
pub(crate) static CPU: Recipe = Recipe {
    name: "libtorch-2.11.0-cpu",
    home: "",
    wheels: &[
        Wheel {
            picks: &[
                Pick::Folder { from: "torch/include/", to: "include/" },
                Pick::File { name: "libc10.so", to: "lib/" },
                Pick::File { name: "libtorch_cpu.so", to: "lib/" },
                Pick::File { name: "libgomp.so.1", to: "lib/" },
            ],
            ..TORCH
        },
        Wheel { picks: &[Pick::File { name: "libcudart.so.13", to: "lib/" }], ..CUDA_RUNTIME },
        Wheel { picks: &[Pick::File { name: "libcupti.so.13", to: "lib/" }], ..CUDA_CUPTI },
    ],
    links: &[("lib/libtorch.so", "libtorch_cpu.so"), ("lib/libgomp.so", "libgomp.so.1")],
    expected: &[
        "include/torch/csrc/api/include/torch/torch.h",
        "lib/libc10.so",
        "lib/libcudart.so.13",
        "lib/libcupti.so.13",
        "lib/libgomp.so",
        "lib/libtorch.so",
        "lib/libtorch_cpu.so",
    ],
    needed_bytes: 1_200_000_000,
};

/// Everything, laid out as Python would: the libraries of torch look for those of NVIDIA in
/// `../../nvidia` from where they lie.
///
/// These are the packages that the metadata of torch 2.11.0 names for Linux (`cuda-toolkit`
/// 13.0.2 stands there for the first eleven), in the exact versions it names, without those
/// that only Python needs.
pub(crate) static CUDA: Recipe = Recipe {
    name: "libtorch-2.11.0-cuda",
    home: "site/torch",
    wheels: &[
        Wheel {
            picks: &[
                Pick::Folder { from: "torch/include/", to: "site/torch/include/" },
                Pick::Folder { from: "torch/lib/", to: "site/torch/lib/" },
            ],
            ..TORCH
        },
        Wheel { picks: NVIDIA_FILES, ..CUDA_RUNTIME },
        Wheel { picks: NVIDIA_FILES, ..CUDA_CUPTI },
        Wheel {
            file: "nvidia_cublas-13.1.0.3-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "ee8722c1f0145ab246bccb9e452153b5e0515fd094c3678df50b2a0888b8b171",
            bytes: 423_133_236,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_cuda_nvrtc-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
            sha256: "ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575",
            bytes: 90_215_200,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_cufft-12.0.0.61-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3",
            bytes: 214_085_489,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_cufile-1.15.1.6-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44",
            bytes: 1_223_672,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_curand-10.4.0.35-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc",
            bytes: 59_544_258,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_cusolver-12.0.4.66-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112",
            bytes: 200_941_980,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_cusparse-12.6.3.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b",
            bytes: 145_942_937,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_nvjitlink-13.0.88-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
            sha256: "13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b",
            bytes: 40_713_933,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_nvtx-13.0.85-py3-none-manylinux1_x86_64.manylinux_2_5_x86_64.whl",
            sha256: "4936d1d6780fbe68db454f5e72a42ff64d1fd6397df9f363ae786930fd5c1cd4",
            bytes: 148_047,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_cudnn_cu13-9.19.0.56-py3-none-manylinux_2_27_x86_64.whl",
            sha256: "d20e1734305e9d68889a96e3f35094d733ff1f83932ebe462753973e53a572bf",
            bytes: 366_066_321,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_cusparselt_cu13-0.8.0-py3-none-manylinux2014_x86_64.whl",
            sha256: "25e30a8a7323935d4ad0340b95a0b69926eee755767e8e0b1cf8dd85b197d3fd",
            bytes: 169_884_119,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_nccl_cu13-2.28.9-py3-none-manylinux_2_18_x86_64.whl",
            sha256: "e4553a30f34195f3fa1da02a6da3d6337d28f2003943aa0a3d247bbc25fefc42",
            bytes: 196_493_177,
            picks: NVIDIA_FILES,
        },
        Wheel {
            file: "nvidia_nvshmem_cu13-3.4.5-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
            sha256: "290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80",
            bytes: 60_412_546,
            picks: NVIDIA_FILES,
        },
    ],
    links: &[("site/torch/lib/libgomp.so", "libgomp.so.1")],
    expected: &[
        "site/nvidia/cu13/lib/libcublas.so.13",
        "site/nvidia/cu13/lib/libcudart.so.13",
        "site/nvidia/cudnn/lib/libcudnn.so.9",
        "site/torch/include/torch/csrc/api/include/torch/torch.h",
        "site/torch/lib/libc10.so",
        "site/torch/lib/libgomp.so",
        "site/torch/lib/libtorch.so",
        "site/torch/lib/libtorch_cpu.so",
        "site/torch/lib/libtorch_cuda.so",
    ],
    needed_bytes: 9_000_000_000,
};

const NVIDIA_FILES: &[Pick] = &[Pick::Folder { from: "nvidia/", to: "site/nvidia/" }];

const TORCH: Wheel = Wheel {
    file: "torch-2.11.0-cp311-cp311-manylinux_2_28_x86_64.whl",
    sha256: "7aa2f9bbc6d4595ba72138026b2074be1233186150e9292865e04b7a63b8c67a",
    bytes: 530_604_548,
    picks: &[],
};

const CUDA_RUNTIME: Wheel = Wheel {
    file: "nvidia_cuda_runtime-13.0.96-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    sha256: "7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548",
    bytes: 2_243_632,
    picks: &[],
};

const CUDA_CUPTI: Wheel = Wheel {
    file: "nvidia_cuda_cupti-13.0.85-py3-none-manylinux_2_25_x86_64.whl",
    sha256: "4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8",
    bytes: 10_715_597,
    picks: &[],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_wheel_is_a_full_name_with_a_full_checksum() {
        for wheel in CPU.wheels.iter().chain(CUDA.wheels) {
            assert_eq!(wheel.file.split('-').count(), 5, "{}", wheel.file);
            assert_eq!(wheel.sha256.len(), 64, "{}", wheel.file);
            assert!(!wheel.picks.is_empty(), "{}", wheel.file);
        }
    }

    #[test]
    fn the_recipes_are_for_the_version_of_the_bindings() {
        for recipe in [&CPU, &CUDA] {
            assert!(recipe.name.contains(TORCH_VERSION), "{}", recipe.name);
            assert!(recipe.wheels[0].file.starts_with(&format!("torch-{TORCH_VERSION}-")));
            let header = std::path::Path::new(recipe.home).join("include/torch");
            assert!(
                recipe.expected.iter().any(|file| std::path::Path::new(file).starts_with(&header))
            );
        }
    }
}
