//! Packs the OpenAPI document: the binary carries it, and gives it out as it is.

use std::io::Write;
use std::path::PathBuf;
use std::{env, fs, io};

const DOCUMENT: &str = "openapi/bridgehead.json";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={DOCUMENT}");
    let to = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_default()).join("openapi.json.gz");
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&fs::read(DOCUMENT)?)?;
    fs::write(to, packed.finish()?)
}
