//! Real components, built once for all tests by the script that users run, and short ways to say what a
//! test is about.

// Each test file uses its part.
#![allow(dead_code, unreachable_pub, clippy::panic, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{env, fs};

use weir_domain::catalog::{Doc, Feature, FeatureRef, Place, Transform};
use weir_domain::{Cell, Column, FeatureType, Kind, Provenance, Value};
use weir_transform::{Engine, Plugin, Runner, Settings};

/// A slice that no well-behaved guest needs, on the slowest machine that runs tests.
pub const AMPLE: Duration = Duration::from_secs(20);

pub const F64: FeatureType = FeatureType::One(Kind::F64);
pub const I64: FeatureType = FeatureType::One(Kind::I64);

/// The bytes of `plugins/…/NAME` as a component.
pub fn component(name: &str) -> Vec<u8> {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    let folder = BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let out = root.join("target/plugins");
        fs::create_dir_all(&out).unwrap();
        // Each test is a process of its own: the first builds, the others wait and find nothing to do.
        let lock = fs::File::create(out.join(".lock")).unwrap();
        lock.lock().unwrap();
        let built = Command::new(root.join("plugins/build.sh"))
            .arg(&out)
            .env("WEIR_PACK", env!("CARGO_BIN_EXE_weir-pack"))
            .output()
            .unwrap();
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        out
    });
    fs::read(folder.join(format!("{name}.wasm"))).unwrap()
}

pub fn engine() -> Engine {
    Engine::new(Settings { instances_max: 32, ..Settings::default() }).unwrap()
}

pub fn load(name: &str) -> Arc<Plugin> {
    engine().load(&component(name)).unwrap()
}

/// For tests that count on one and the same instance: no call is cut short because the machine is busy.
pub fn patient() -> Settings {
    Settings { instances_max: 32, inline_max: Duration::ZERO, ..Settings::default() }
}

pub fn patient_runner(transform: &Transform) -> Runner {
    let plugin = Engine::new(patient()).unwrap().load(&component(&transform.doc.name)).unwrap();
    Runner::new(plugin, transform).unwrap()
}

/// A transform of the catalog, as it would be read from a file.
pub fn transform(name: &str, inputs: &[&str], outputs: &[(&str, &str)]) -> Transform {
    let at = Place { file: "transforms.toml".into(), line: 1 };
    let doc = Doc { name: name.into(), owner: "tests".into(), description: name.into(), at };
    let feature = |(name, of): &(&str, &str)| Feature {
        name: (*name).into(),
        of: FeatureType::parse(of).unwrap(),
        default: None,
        description: String::new(),
    };
    Transform {
        doc,
        version: 1,
        component: format!("{name}.wasm"),
        digest: None,
        inputs: inputs.iter().map(|i| ((*i).into(), FeatureRef::parse(&format!("request:{i}")).unwrap())).collect(),
        outputs: outputs.iter().map(feature).collect(),
        time_limit: AMPLE,
        memory_limit_mib: 16,
    }
}

/// The catalog's word on `plugins/examples/crosswind`, in another order than the component's own.
pub fn crosswind() -> Transform {
    transform(
        "crosswind",
        &["runway_heading_deg", "wind_dir_deg", "wind_speed_mph"],
        &[("headwind_mph", "f64"), ("crosswind_mph", "f64")],
    )
}

/// The catalog's word on `plugins/hostile`.
pub fn hostile() -> Transform {
    let outputs = [("value", "f64"), ("text", "string"), ("flag", "bool"), ("vector", "list<f32>")];
    transform("hostile", &["mode"], &outputs)
}

pub fn runner(transform: &Transform) -> Runner {
    Runner::new(load(&transform.doc.name), transform).unwrap()
}

/// A cell with holes where there is `None`.
pub fn cell(of: FeatureType, values: &[Option<Value>]) -> Cell {
    let mut column = Column::with_capacity(of, values.len());
    for value in values {
        match value {
            Some(value) => column.push(value).unwrap(),
            None => column.push_placeholder(),
        }
    }
    let origin = |v: &Option<Value>| if v.is_some() { Provenance::Store } else { Provenance::Missing };
    Cell { column, provenance: values.iter().map(origin).collect() }
}

pub fn f64s(values: &[Option<f64>]) -> Cell {
    cell(F64, &values.iter().map(|v| v.map(Value::F64)).collect::<Vec<_>>())
}

pub fn i64s(values: &[Option<i64>]) -> Cell {
    cell(I64, &values.iter().map(|v| v.map(Value::I64)).collect::<Vec<_>>())
}

/// What a cell of floats says, holes as `None`.
pub fn options(cell: &Cell) -> Vec<Option<f64>> {
    let Column::F64(values) = &cell.column else { panic!("not f64: {cell:?}") };
    values.iter().zip(&cell.provenance).map(|(v, p)| (!p.is_absent()).then_some(*v)).collect()
}
