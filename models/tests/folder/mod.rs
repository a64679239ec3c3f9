//! A version's folder in memory, for tests: a manifest, tensors of given shapes, and the endpoint they answer for.

use std::borrow::Cow;
use std::collections::BTreeMap;

use tidegate_models::candle_core::{Device, Tensor};
use tidegate_models::load::{Files, load_version};
use tidegate_models::{EndpointManifest, Version};

/// Where the version lies in a models folder.
pub const PATH: &str = "rig-wear/net/1.0.0";

/// An endpoint of three features.
pub fn endpoint(task: &str) -> EndpointManifest {
    let features = ["current", "pressure", "temperature"]
        .map(|name| format!("[[features]]\nname = \"{name}\"\nunit = \"\"\nrange = [-2.0, 2.0]\n"));
    let head = "name = \"rig-wear\"\ndescription = \"d\"\nrevision = 1\ndefault = \"net/1.0.0\"\n";
    EndpointManifest::parse(&format!("{head}task = \"{task}\"\n{}", features.concat())).unwrap()
}

/// `rest` is the manifest from `memory` on.
pub fn manifest(rest: &str) -> String {
    format!(
        "name = \"net\"\nversion = \"1.0.0\"\nmax_gap_s = 60.0\nauthor = \"a\"\ncreated = \"2026-11-24\"\n\
         intended_use = \"t\"\nlicence = \"MIT\"\ntraining = {{ data = \"none\", hash = \"\" }}\n{rest}"
    )
}

/// Seeded numbers between -1 and 1.
pub fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = move || {
        random ^= random >> 12;
        random ^= random << 25;
        random ^= random >> 27;
        (random.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A file of tensors of these shapes.
pub fn weights(shapes: &[(&str, &[usize])]) -> Vec<u8> {
    let tensor = |(index, (name, shape)): (usize, &(&str, &[usize]))| {
        let values = numbers(index as u64 + 1, shape.iter().product());
        (
            (*name).to_owned(),
            Tensor::from_vec(values, *shape, &Device::Cpu).unwrap(),
        )
    };
    let tensors: BTreeMap<_, _> = shapes.iter().enumerate().map(tensor).collect();
    safetensors::serialize(tensors, None).unwrap()
}

/// The files of a version.
pub fn folder(manifest: &str, weights: &[u8]) -> Files {
    [
        (
            "model.toml".to_owned(),
            Cow::Owned(manifest.as_bytes().to_vec()),
        ),
        (
            "weights.safetensors".to_owned(),
            Cow::Owned(weights.to_vec()),
        ),
    ]
    .into()
}

/// The version of them, without a golden run.
pub fn load(task: &str, manifest: &str, weights: &[u8]) -> Version {
    load_version(&endpoint(task), PATH, &folder(manifest, weights), false).unwrap()
}
