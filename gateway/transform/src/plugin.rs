//! A component that was loaded: its digest, its schema, and whether it fits what the catalog says of it.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use thiserror::Error;
use wasmtime::component::Component;
use wasmtime::component::types::ComponentItem;
use weir_domain::catalog::Transform;
use weir_domain::{FeatureType, Kind};

use crate::Failure;
use crate::engine::Shared;
use crate::guest::{self, Allowance, Described, Ending, Guest, Limits, Patience, TransformPre};
use crate::pack::{is_component, is_module};
use crate::ticker::ticks;

/// What a component may take to say what it is. It only builds a list of names, but an interpreter
/// may have to start first.
const DESCRIBE_LIMIT: Duration = Duration::from_millis(500);

/// Columns a component may declare, inputs and outputs together. Wide models have some hundreds.
const COLUMNS_MAX: usize = 2_048;

/// Bytes of a column's name. It is repeated in messages.
const NAME_MAX_BYTES: usize = 128;

/// The one import there may be: names of types, nothing that can be called.
const TYPES: &str = "weir:transform/types@";

/// A compiled component.
pub struct Plugin {
    pub(crate) engine: Arc<Shared>,
    pub(crate) pre: TransformPre<Limits>,
    digest: String,
    schema: Schema,
}

/// The columns of a component, in its own order.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// What it takes.
    pub inputs: Vec<Field>,
    /// What it computes.
    pub outputs: Vec<Field>,
}

/// One column.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// The type of its values.
    pub of: FeatureType,
}

impl fmt::Debug for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Plugin").field("digest", &self.digest).field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Plugin {
    /// `sha256:…` of the component's bytes.
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// What it takes and computes.
    pub fn schema(&self) -> &Schema {
        &self.schema
    }

    /// Every way in which the catalog and the component disagree, a sentence each. `input_types` are the
    /// types of the features that the transform's inputs refer to, in the transform's order. Columns are
    /// matched by name: their order may differ.
    pub fn check(&self, transform: &Transform, input_types: &[FeatureType]) -> Vec<String> {
        let mut wrong = self.check_names(transform);
        for ((name, _), of) in transform.inputs.iter().zip(input_types) {
            wrong.extend(differs("input", name, *of, &self.schema.inputs));
        }
        wrong
    }

    /// What can be checked without knowing the inputs' types.
    pub(crate) fn check_names(&self, transform: &Transform) -> Vec<String> {
        let mut wrong = Vec::new();
        if let Some(pinned) = transform.digest.as_ref().filter(|pinned| **pinned != self.digest) {
            wrong.push(format!("the component is {}, the catalog pins {pinned}", self.digest));
        }
        let most = self.engine.settings.memory_max_mib;
        if transform.memory_limit_mib > most {
            let asked = transform.memory_limit_mib;
            wrong.push(format!("the memory limit is {asked} MiB, this gateway gives a transform {most} MiB at most"));
        }
        let given: HashSet<&str> = transform.inputs.iter().map(|(name, _)| &**name).collect();
        for field in self.schema.inputs.iter().filter(|f| !given.contains(f.name.as_str())) {
            wrong.push(format!(
                "the component takes `{}` ({}), which the catalog does not give it",
                field.name, field.of
            ));
        }
        for (name, _) in transform.inputs.iter().filter(|(n, _)| find(&self.schema.inputs, n).is_none()) {
            wrong.push(format!("the catalog gives `{name}`, which the component does not take"));
        }
        let wanted: HashSet<&str> = transform.outputs.iter().map(|f| &*f.name).collect();
        for field in self.schema.outputs.iter().filter(|f| !wanted.contains(f.name.as_str())) {
            wrong.push(format!(
                "the component computes `{}` ({}), which the catalog does not list",
                field.name, field.of
            ));
        }
        for output in &transform.outputs {
            if find(&self.schema.outputs, &output.name).is_none() {
                wrong.push(format!("the catalog lists output `{}`, which the component does not compute", output.name));
            }
            wrong.extend(differs("output", &output.name, output.of, &self.schema.outputs));
        }
        wrong
    }

    pub(crate) fn compile(engine: &Arc<Shared>, bytes: &[u8], digest: String) -> Result<Self, LoadError> {
        let max = engine.settings.component_max_bytes;
        if bytes.len() > max {
            return Err(LoadError::TooBig { bytes: bytes.len(), max });
        }
        if is_module(bytes) {
            return Err(LoadError::Module);
        }
        if !is_component(bytes) {
            return Err(LoadError::NotWasm);
        }
        let component = Component::from_binary(&engine.wasm, bytes).map_err(|e| LoadError::Compile(e.into()))?;
        let imports = callable_imports(&component, &engine.wasm);
        if !imports.is_empty() {
            return Err(LoadError::Imports(imports.join("`, `")));
        }
        let pre = engine
            .linker
            .instantiate_pre(&component)
            .and_then(TransformPre::new)
            .map_err(|e| LoadError::World(e.into()))?;
        let schema = describe(engine, &pre)?;
        Ok(Self { engine: Arc::clone(engine), pre, digest, schema })
    }
}

fn find<'a>(fields: &'a [Field], name: &str) -> Option<&'a Field> {
    fields.iter().find(|f| f.name == name)
}

fn differs(what: &str, name: &str, of: FeatureType, fields: &[Field]) -> Option<String> {
    if !crosses(of) {
        return Some(format!("{what} `{name}` is {of} in the catalog, a type that no transform can have"));
    }
    let field = find(fields, name)?;
    (field.of != of).then(|| format!("{what} `{name}` is {of} in the catalog and {} in the component", field.of))
}

/// Whether values of this type can be handed to a guest: single values and vectors can.
fn crosses(of: FeatureType) -> bool {
    matches!(of, FeatureType::One(_) | FeatureType::List(Kind::F32))
}

/// Imports other than the names of the contract's types.
fn callable_imports(component: &Component, engine: &wasmtime::Engine) -> Vec<String> {
    let types_only = |name: &str, item: &ComponentItem| match item {
        ComponentItem::ComponentInstance(instance) => {
            name.starts_with(TYPES)
                && instance.exports(engine).all(|(_, export)| matches!(export.ty, ComponentItem::Type(_)))
        }
        ComponentItem::Type(_) => true,
        _ => false,
    };
    let component_type = component.component_type();
    let imports = component_type.imports(engine);
    imports.filter(|(name, import)| !types_only(name, &import.ty)).map(|(name, _)| name.to_owned()).collect()
}

fn describe(engine: &Shared, pre: &TransformPre<Limits>) -> Result<Schema, LoadError> {
    let _watch = engine.ticker.watch();
    let allow = Allowance {
        memory_bytes: (engine.settings.memory_max_mib as usize) << 20,
        output_bytes: engine.settings.output_max_bytes,
    };
    let described = Guest::new(pre, allow, Patience { ticks: ticks(DESCRIBE_LIMIT), caller: None })
        .and_then(|mut guest| guest.describe());
    match described {
        Ok(described) => checked(described),
        // Neither trap nor limit: the exports are there but of other types.
        Err(Ending { failure: Failure::Output, detail }) => Err(LoadError::World(detail.into())),
        Err(Ending { failure, detail }) => Err(LoadError::Describe { failure, detail }),
    }
}

fn checked(described: Described) -> Result<Schema, LoadError> {
    let columns = described.inputs.len() + described.outputs.len();
    if columns > COLUMNS_MAX {
        return Err(LoadError::Schema(format!("{columns} columns, {COLUMNS_MAX} are the most there can be")));
    }
    if described.outputs.is_empty() {
        return Err(LoadError::Schema("no outputs".to_owned()));
    }
    let checked = |fields: Vec<guest::DescribedField>| {
        let mut seen = HashSet::new();
        fields
            .into_iter()
            .map(|field| {
                if field.name.is_empty() || field.name.len() > NAME_MAX_BYTES {
                    return Err(LoadError::Schema(format!("a column's name has {} bytes", field.name.len())));
                }
                if !seen.insert(field.name.clone()) {
                    return Err(LoadError::Schema(format!("two columns named `{}`", field.name)));
                }
                Ok(Field { of: feature_type(field.kind), name: field.name })
            })
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(Schema { inputs: checked(described.inputs)?, outputs: checked(described.outputs)? })
}

fn feature_type(kind: guest::Kind) -> FeatureType {
    FeatureType::One(match kind {
        guest::Kind::Bool => Kind::Bool,
        guest::Kind::I64 => Kind::I64,
        guest::Kind::F64 => Kind::F64,
        guest::Kind::F32 => Kind::F32,
        guest::Kind::String => Kind::String,
        guest::Kind::Bytes => Kind::Bytes,
        guest::Kind::Timestamp => Kind::Timestamp,
        guest::Kind::ListF32 => return FeatureType::List(Kind::F32),
    })
}

/// Why a file is not a transform.
#[derive(Debug, Error)]
pub enum LoadError {
    /// More than [`component_max_bytes`](crate::Settings::component_max_bytes).
    #[error("the component has {bytes} bytes, {max} are the most that are compiled")]
    TooBig {
        /// Its size.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// A core module, as compilers make it.
    #[error("this is a core module: make a component of it with `weir plugin pack`")]
    Module,
    /// Something else.
    #[error("this is not a Wasm component")]
    NotWasm,
    /// Damaged, or it uses proposals that the engine does not have.
    #[error("the component does not compile")]
    Compile(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Longer than [`compile_limit`](crate::Settings::compile_limit).
    #[error("the component does not compile within {} s", .limit.as_secs_f32())]
    Slow {
        /// The limit.
        limit: Duration,
    },
    /// A bug of the compiler, which says more on standard error.
    #[error("the compiler gave up on the component")]
    Compiler,
    /// No thread to compile on.
    #[error("cannot start a thread to compile on")]
    Thread(#[source] std::io::Error),
    /// It wants something from its host.
    #[error("the component imports `{0}`: a transform can have no imports")]
    Imports(String),
    /// It exports something else than the contract says.
    #[error("the component is not of the world weir:transform")]
    World(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It did not say what it is.
    #[error("the component does not describe itself ({failure}): {detail}")]
    Describe {
        /// How it ended.
        failure: Failure,
        /// What the engine says about it.
        detail: String,
    },
    /// It says something about itself that makes no sense.
    #[error("the component describes itself wrongly: {0}")]
    Schema(String),
}
