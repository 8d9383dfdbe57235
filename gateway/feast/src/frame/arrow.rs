//! Arrow's part: one type for everything in a column, and the way back to numpy.

use std::borrow::Cow;

use super::pandas;
use crate::coerce::{Dtype, Py};
use crate::{Raised, repr};

/// Integers up to here are floats without loss.
const FLOAT_INT_MAX: u64 = 1 << 53;

/// The type of a column or of what is in its lists and structs.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Type<'a> {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    Binary,
    List(Box<Type<'a>>),
    Struct(Vec<(Cow<'a, str>, Type<'a>)>),
}

impl std::fmt::Display for Type<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Type::Null => f.write_str("null"),
            Type::Bool => f.write_str("bool"),
            Type::Int => f.write_str("int64"),
            Type::Uint => f.write_str("uint64"),
            Type::Double => f.write_str("double"),
            Type::String => f.write_str("string"),
            Type::Binary => f.write_str("binary"),
            Type::List(item) => write!(f, "list<item: {item}>"),
            Type::Struct(fields) => {
                f.write_str("struct<")?;
                for (i, (name, of)) in fields.iter().enumerate() {
                    write!(f, "{}{name}: {of}", if i > 0 { ", " } else { "" })?;
                }
                f.write_str(">")
            }
        }
    }
}

/// A column of a table: pandas' own, and its type here. What is in it fits the type.
pub(super) struct Column<'f> {
    pub(super) of: Type<'f>,
    values: &'f pandas::Column<'f>,
}

impl<'f> Column<'f> {
    /// Finds the type and checks that every value fits.
    pub(super) fn of(name: &str, values: &'f pandas::Column<'f>) -> Result<Self, Raised> {
        let of = match values {
            pandas::Column::Int(_) => Type::Int,
            pandas::Column::Uint(_) => Type::Uint,
            pandas::Column::Float(_) => Type::Double,
            pandas::Column::Bool(_) => Type::Bool,
            pandas::Column::Object(values) => {
                let checked = infer(values).and_then(|of| {
                    values.iter().try_for_each(|value| check(value, &of))?;
                    Ok(of)
                });
                checked.map_err(|e| e.of_column(name))?
            }
        };
        Ok(Self { of, values })
    }

    /// `column.to_numpy()`
    pub(super) fn to_numpy(&self) -> Vec<Py<'f>> {
        match self.values {
            pandas::Column::Int(values) => values.iter().map(|i| Py::NpInt(*i)).collect(),
            pandas::Column::Uint(values) => values.iter().map(|u| Py::NpUint(*u)).collect(),
            pandas::Column::Float(values) => values.iter().map(|f| Py::NpFloat(*f)).collect(),
            pandas::Column::Bool(values) => values.iter().map(|b| Py::NpBool(*b)).collect(),
            pandas::Column::Object(values) => numpy(&values.iter().collect::<Vec<_>>(), &self.of).1,
        }
    }

    /// The lengths of the lists in it, nothing for a null; nothing at all where there are no lists.
    pub(super) fn list_lengths(&self) -> Option<Vec<Option<usize>>> {
        match (&self.of, self.values) {
            (Type::List(_), pandas::Column::Object(values)) => Some(values.iter().map(Py::len).collect()),
            _ => None,
        }
    }
}

/// What Arrow complains about.
enum Misfit {
    /// pyarrow adds to these which column it was.
    Arrow { class: &'static str, message: String },
    /// Python's own pass through.
    Python(Raised),
}

impl Misfit {
    fn invalid(message: impl Into<String>) -> Self {
        Self::Arrow { class: "ArrowInvalid", message: message.into() }
    }

    fn of_column(self, name: &str) -> Raised {
        match self {
            Self::Python(raised) => raised,
            Self::Arrow { class, message } => {
                let column = format!("Conversion failed for column {name} with type object");
                Raised::python(class, format!("({}, {})", repr(&message), repr(&column)))
            }
        }
    }
}

/// What has been seen of the values of one place: a column, the items of its lists, a field of its structs.
#[derive(Default)]
struct Seen<'v> {
    total: usize,
    nulls: usize,
    bools: usize,
    ints: usize,
    floats: usize,
    texts: usize,
    binaries: usize,
    lists: usize,
    structs: usize,
    items: Option<Box<Seen<'v>>>,
    fields: Vec<(Cow<'v, str>, Seen<'v>)>,
}

fn infer<'v>(values: &[Py<'v>]) -> Result<Type<'v>, Misfit> {
    let mut seen = Seen::default();
    seen.visit_all(values)?;
    seen.validate()?;
    Ok(seen.into_type())
}

impl<'v> Seen<'v> {
    /// Looks at values up to the first that settles the matter: all but nulls, integers and collections do.
    fn visit_all(&mut self, values: &[Py<'v>]) -> Result<(), Misfit> {
        for value in values {
            if self.visit(value)? {
                break;
            }
        }
        Ok(())
    }

    fn visit(&mut self, value: &Py<'v>) -> Result<bool, Misfit> {
        self.total += 1;
        let settles = match value {
            value if value.is_null() => {
                self.nulls += 1;
                false
            }
            Py::Bool(_) => {
                self.bools += 1;
                true
            }
            Py::Float(_) => {
                self.floats += 1;
                true
            }
            Py::Int(_) | Py::Big(_) => {
                self.ints += 1;
                false
            }
            Py::Str(_) => {
                self.texts += 1;
                true
            }
            Py::Bytes(_) => {
                self.binaries += 1;
                true
            }
            Py::List(items) => {
                self.lists += 1;
                self.items.get_or_insert_default().visit_all(items)?;
                false
            }
            Py::Dict(entries) => {
                self.structs += 1;
                for (key, value) in entries {
                    self.field(key).visit(value)?;
                }
                false
            }
            other => {
                return Err(Misfit::invalid(format!(
                    "Could not convert {} with type {}: did not recognize Python value type when inferring an Arrow \
                     data type",
                    other.repr(),
                    other.class()
                )));
            }
        };
        Ok(settles)
    }

    fn field(&mut self, key: &Cow<'v, str>) -> &mut Seen<'v> {
        let place = self.fields.iter().position(|(name, _)| name == key).unwrap_or_else(|| {
            self.fields.push((key.clone(), Seen::default()));
            self.fields.len() - 1
        });
        &mut self.fields[place].1
    }

    fn validate(&self) -> Result<(), Misfit> {
        let mixed = |what: &str| Misfit::invalid(format!("cannot mix {what} and non-{what}, non-null values"));
        if self.lists > 0 {
            if self.lists + self.nulls != self.total {
                return Err(mixed("list"));
            }
            return self.items.iter().try_for_each(|items| items.validate());
        }
        if self.structs > 0 {
            if self.structs + self.nulls != self.total {
                return Err(mixed("struct"));
            }
            return self.fields.iter().try_for_each(|(_, field)| field.validate());
        }
        Ok(())
    }

    fn into_type(self) -> Type<'v> {
        if self.lists > 0 {
            Type::List(Box::new(self.items.map_or(Type::Null, |items| items.into_type())))
        } else if self.structs > 0 {
            Type::Struct(self.fields.into_iter().map(|(name, field)| (name, field.into_type())).collect())
        } else if self.floats > 0 {
            Type::Double
        } else if self.ints > 0 {
            Type::Int
        } else if self.bools > 0 {
            Type::Bool
        } else if self.binaries > 0 {
            Type::Binary
        } else if self.texts > 0 {
            Type::String
        } else {
            Type::Null
        }
    }
}

/// Whether a value fits the type that was inferred, perhaps from values before it.
fn check(value: &Py<'_>, of: &Type<'_>) -> Result<(), Misfit> {
    if value.is_null() {
        return Ok(());
    }
    let not = |wanted: &str| {
        Misfit::invalid(format!(
            "Could not convert {} with type {}: tried to convert to {wanted}",
            value.repr(),
            value.class()
        ))
    };
    let type_error = |message: String| Misfit::Arrow { class: "ArrowTypeError", message };
    match (of, value) {
        (Type::Bool, Py::Bool(_)) | (Type::Int, Py::Int(_)) | (Type::Double, Py::Float(_) | Py::Bool(_)) => Ok(()),
        (Type::String | Type::Binary, Py::Str(_) | Py::Bytes(_)) => Ok(()),
        (Type::Double, Py::Int(i)) if i.unsigned_abs() <= FLOAT_INT_MAX => Ok(()),
        (Type::Double, Py::Int(i)) => Err(Misfit::invalid(format!(
            "Integer value {i} is outside of the range exactly representable by a IEEE 754 double precision value"
        ))),
        (Type::Double, Py::Big(_)) => Err(Misfit::invalid("PyLong is too large to fit int64")),
        (Type::Double, _) => Err(not("double")),
        (Type::Int, Py::Big(_)) => {
            Err(Misfit::Python(Raised::python("OverflowError", "Python int too large to convert to C long")))
        }
        (Type::Int, Py::Bool(_)) => Err(type_error("Expected integer, got bool".to_owned())),
        (Type::Int, _) => Err(not("int64")),
        (Type::Bool, _) => Err(not("boolean")),
        (Type::String | Type::Binary, other) => {
            Err(type_error(format!("Expected bytes, got a '{}' object", other.class())))
        }
        (Type::List(item), Py::List(items)) => items.iter().try_for_each(|value| check(value, item)),
        (Type::Struct(fields), Py::Dict(entries)) => {
            let field = |name| entries.iter().find(|(key, _)| key == name);
            fields.iter().filter_map(|(name, of)| Some((field(name)?, of))).try_for_each(|((_, v), of)| check(v, of))
        }
        _ => Ok(()),
    }
}

/// The numpy array of values that fit a type: what it is stored as, and its elements.
///
/// One null anywhere in a column changes the type of all its numbers, through lists and structs too.
fn numpy<'v>(values: &[&Py<'v>], of: &Type<'_>) -> (Dtype, Vec<Py<'v>>) {
    let has_null = values.iter().any(|value| value.is_null());
    match of {
        Type::Int if !has_null => {
            let int = |value: &&Py<'v>| if let Py::Int(i) = value { Py::NpInt(*i) } else { Py::NpInt(0) };
            (Dtype::Int, values.iter().map(int).collect())
        }
        Type::Int | Type::Double => {
            let float = |value: &&Py<'v>| match value {
                Py::Int(i) => Py::NpFloat(*i as f64),
                Py::Bool(b) => Py::NpFloat(f64::from(u8::from(*b))),
                Py::Float(f) => Py::NpFloat(*f),
                _ => Py::NpFloat(f64::NAN),
            };
            (Dtype::Float, values.iter().map(float).collect())
        }
        Type::Bool if !has_null => {
            (Dtype::Bool, values.iter().map(|value| Py::NpBool(**value == Py::Bool(true))).collect())
        }
        Type::List(item) => {
            let all: Vec<&Py<'v>> = values
                .iter()
                .filter_map(|v| if let Py::List(items) = v { Some(items) } else { None })
                .flatten()
                .collect();
            let (dtype, items) = numpy(&all, item);
            let mut items = items.into_iter();
            let list = |value: &&Py<'v>| match value {
                Py::List(list) => Py::Array(dtype, items.by_ref().take(list.len()).collect()),
                _ => Py::None,
            };
            (Dtype::Object, values.iter().map(list).collect())
        }
        Type::Struct(fields) => (Dtype::Object, structs(values, fields)),
        _ => {
            let plain = |value: &&Py<'v>| if value.is_null() { Py::None } else { (**value).clone() };
            (Dtype::Object, values.iter().map(plain).collect())
        }
    }
}

fn structs<'v>(values: &[&Py<'v>], fields: &[(Cow<'_, str>, Type<'_>)]) -> Vec<Py<'v>> {
    let rows: Vec<&Vec<(Cow<'v, str>, Py<'v>)>> =
        values.iter().filter_map(|v| if let Py::Dict(entries) = v { Some(entries) } else { None }).collect();
    let mut dicts: Vec<Vec<(Cow<'v, str>, Py<'v>)>> = vec![Vec::with_capacity(fields.len()); rows.len()];
    for (name, of) in fields {
        let cells: Vec<&Py<'v>> = rows
            .iter()
            .map(|row| row.iter().find(|(key, _)| key == name).map_or(&Py::None, |(_, value)| value))
            .collect();
        let (_, converted) = numpy(&cells, of);
        for ((dict, cell), value) in dicts.iter_mut().zip(cells).zip(converted) {
            let scalar = match value {
                _ if cell.is_null() => Py::None,
                array @ Py::Array(..) => array,
                scalar => scalar.to_python(),
            };
            dict.push((Cow::Owned(name.clone().into_owned()), scalar));
        }
    }
    let mut dicts = dicts.into_iter();
    values
        .iter()
        .map(|v| if matches!(v, Py::Dict(_)) { dicts.next().map_or(Py::None, Py::Dict) } else { Py::None })
        .collect()
}
