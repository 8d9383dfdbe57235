//! Reads TOML tables key by key and remembers every mistake with its place, so that an operator mends a
//! configuration once and not line after line.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use toml_span::Span;
use toml_span::value::{Table, Value as Toml, ValueInner};

use super::{Mistake, Place};
use crate::{Kind, Value};

/// Longest name of anything in a catalog.
pub const NAME_BYTES_MAX: usize = 64;

/// Mistakes found so far.
#[derive(Debug, Default)]
pub struct Mistakes(RefCell<BTreeSet<Mistake>>);

impl Mistakes {
    /// Notes one.
    pub fn add(&self, at: &Place, message: impl Into<String>) {
        self.0.borrow_mut().insert(Mistake { at: at.clone(), message: message.into() });
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.borrow().is_empty()
    }

    /// All of them, by file and line.
    pub fn into_vec(self) -> Vec<Mistake> {
        self.0.into_inner().into_iter().collect()
    }
}

/// One file: turns byte offsets into places.
#[derive(Debug)]
pub(crate) struct File {
    name: Arc<str>,
    line_starts: Vec<usize>,
}

impl File {
    fn new(name: &str, text: &str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1);
        Self { name: name.into(), line_starts: std::iter::once(0).chain(breaks).collect() }
    }

    fn place(&self, span: Span) -> Place {
        let line = self.line_starts.partition_point(|start| *start <= span.start);
        Place { file: Arc::clone(&self.name), line: line.max(1) }
    }
}

/// The keys of one table. Each getter takes its key; [`Keys::finish`] complains about what is left.
pub struct Keys<'de, 'm> {
    what: String,
    table: Table<'de>,
    file: Arc<File>,
    at: Place,
    expected: Vec<&'static str>,
    places: Vec<(&'static str, Place)>,
    mistakes: &'m Mistakes,
}

impl<'de, 'm> Keys<'de, 'm> {
    /// Parses a whole file; `None` when it is not TOML, which is then the one mistake of that file.
    pub fn parse(name: &str, text: &'de str, mistakes: &'m Mistakes) -> Option<Self> {
        let file = Arc::new(File::new(name, text));
        match toml_span::parse(text) {
            Ok(mut root) => Self::of("file".to_owned(), &mut root, &file, mistakes),
            Err(error) => {
                mistakes.add(&file.place(error.span), format!("not TOML: {error}"));
                None
            }
        }
    }

    fn of(what: String, value: &mut Toml<'de>, file: &Arc<File>, mistakes: &'m Mistakes) -> Option<Self> {
        let at = file.place(value.span);
        match value.take() {
            ValueInner::Table(table) => Some(Self {
                what,
                table,
                file: Arc::clone(file),
                at,
                expected: Vec::new(),
                places: Vec::new(),
                mistakes,
            }),
            other => {
                mistakes.add(&at, format!("{what}: a table is expected here, not {}", found(&other)));
                None
            }
        }
    }

    /// Where the table begins.
    pub fn place(&self) -> &Place {
        &self.at
    }

    /// Where a key that was taken stands, or the table when it was left out.
    pub fn place_of(&self, key: &str) -> &Place {
        self.places.iter().find(|(k, _)| *k == key).map_or(&self.at, |(_, at)| at)
    }

    /// Whether a key that was asked for is there, rightly or not.
    pub(super) fn has(&self, key: &str) -> bool {
        self.places.iter().any(|(k, _)| *k == key)
    }

    /// Notes a mistake about a key of this table.
    pub fn mistake(&self, key: &str, message: impl std::fmt::Display) {
        self.mistakes.add(self.place_of(key), format!("{}: {key}: {message}", self.what));
    }

    /// The table's `name` as it is written, rightly or not.
    pub(super) fn name_written(&self) -> Option<&str> {
        self.table.get("name").and_then(Toml::as_str)
    }

    /// Names the table in later mistakes, once its name is known.
    pub fn rename(&mut self, what: String) {
        self.what = what;
    }

    /// How mistakes name this table.
    pub fn what(&self) -> &str {
        &self.what
    }

    fn take(&mut self, key: &'static str) -> Option<(Span, ValueInner<'de>)> {
        self.expected.push(key);
        let mut value = self.table.remove(key)?;
        self.places.push((key, self.file.place(value.span)));
        Some((value.span, value.take()))
    }

    fn get<T>(
        &mut self,
        key: &'static str,
        wants: &str,
        read: impl FnOnce(ValueInner<'de>) -> Result<T, ValueInner<'de>>,
    ) -> Option<T> {
        let (_, value) = self.take(key)?;
        match read(value) {
            Ok(value) => Some(value),
            Err(other) => {
                self.mistake(key, format!("{wants} is expected, not {}", found(&other)));
                None
            }
        }
    }

    /// Complains if the key is missing (and was not already wrong).
    pub fn required<T>(&mut self, key: &'static str, value: Option<T>) -> Option<T> {
        if value.is_none() && !self.has(key) {
            self.mistakes.add(&self.at, format!("{}: missing key {key:?}", self.what));
        }
        value
    }

    /// Text.
    pub fn text(&mut self, key: &'static str) -> Option<String> {
        self.get(key, "text", |v| match v {
            ValueInner::String(s) => Ok(s.into_owned()),
            other => Err(other),
        })
    }

    /// Text that says something.
    pub fn required_text(&mut self, key: &'static str) -> Option<String> {
        let text = self.text(key);
        let text = self.required(key, text)?;
        if text.trim().is_empty() {
            self.mistake(key, "is empty");
            return None;
        }
        Some(text)
    }

    /// A name that must be there.
    pub fn required_name(&mut self, key: &'static str) -> Option<Arc<str>> {
        let name = self.name(key);
        self.required(key, name)
    }

    /// A name: lower-case letters, digits and `_`, beginning with a letter. Such names need no escaping in a
    /// Redis key, a metric label, a Parquet column or a URL.
    pub fn name(&mut self, key: &'static str) -> Option<Arc<str>> {
        let text = self.text(key)?;
        if !is_name(&text) {
            self.mistake(
                key,
                format!("{text:?} is no name: lower-case letters, digits and _ (64 at most), a letter first"),
            );
            return None;
        }
        Some(text.into())
    }

    /// A whole number within the range.
    pub fn number(&mut self, key: &'static str, range: std::ops::RangeInclusive<u64>) -> Option<u64> {
        let number = self.get(key, "a whole number", |v| match v {
            ValueInner::Integer(i) => Ok(i),
            other => Err(other),
        })?;
        match u64::try_from(number).ok().filter(|n| range.contains(n)) {
            Some(number) => Some(number),
            None => {
                self.mistake(key, format!("{number} is not between {} and {}", range.start(), range.end()));
                None
            }
        }
    }

    /// A number, whole or not.
    pub fn decimal(&mut self, key: &'static str) -> Option<f64> {
        self.get(key, "a number", |v| match v {
            ValueInner::Float(f) => Ok(f),
            ValueInner::Integer(i) => Ok(i as f64),
            other => Err(other),
        })
    }

    /// `true` or `false`.
    pub fn flag(&mut self, key: &'static str) -> Option<bool> {
        self.get(key, "true or false", |v| match v {
            ValueInner::Boolean(b) => Ok(b),
            other => Err(other),
        })
    }

    /// A number of milliseconds, an hour of them at most for a request, a year for a cache.
    pub fn millis(&mut self, key: &'static str, max: Duration) -> Option<Duration> {
        self.number(key, 0..=max.as_millis() as u64).map(Duration::from_millis)
    }

    /// A list of texts; `None` when one of them is none.
    pub fn texts(&mut self, key: &'static str) -> Option<Vec<String>> {
        let items = self.array(key)?;
        let wanted = items.len();
        let mut texts = Vec::with_capacity(wanted);
        for mut item in items {
            match item.take() {
                ValueInner::String(s) => texts.push(s.into_owned()),
                other => self.mistakes.add(
                    &self.file.place(item.span),
                    format!("{}: {key}: a list of texts is expected, not one with {}", self.what, found(&other)),
                ),
            }
        }
        (texts.len() == wanted).then_some(texts)
    }

    /// A list of names, each once.
    pub fn names(&mut self, key: &'static str) -> Vec<Arc<str>> {
        let mut names: Vec<Arc<str>> = Vec::new();
        for name in self.texts(key).unwrap_or_default() {
            if !is_name(&name) {
                self.mistake(key, format!("{name:?} is no name"));
            } else if names.iter().any(|n| **n == *name) {
                self.mistake(key, format!("{name:?} is there twice"));
            } else {
                names.push(name.into());
            }
        }
        names
    }

    /// Two whole numbers `[start, end]`.
    pub fn pair(&mut self, key: &'static str) -> Option<(i64, i64)> {
        let items = self.array(key)?;
        let numbers: Vec<_> = items.iter().filter_map(Toml::as_integer).collect();
        match (numbers.as_slice(), items.len()) {
            ([a, b], 2) => Some((*a, *b)),
            _ => {
                self.mistake(key, "two whole numbers [start, end] are expected");
                None
            }
        }
    }

    fn array(&mut self, key: &'static str) -> Option<Vec<Toml<'de>>> {
        self.get(key, "a list", |v| match v {
            ValueInner::Array(items) => Ok(items),
            other => Err(other),
        })
    }

    /// A value of any feature type.
    pub fn value(&mut self, key: &'static str) -> Option<Value> {
        let (_, value) = self.take(key)?;
        let read = to_value(value);
        if read.is_none() {
            self.mistake(key, "is no value: a boolean, a number, a text or a list of one kind of these is");
        }
        read
    }

    /// A list of values.
    pub fn values(&mut self, key: &'static str) -> Option<Vec<Value>> {
        let items = self.array(key)?;
        let values: Option<Vec<_>> = items.into_iter().map(|mut v| to_value(v.take())).collect();
        if values.is_none() {
            self.mistake(key, "a list of booleans, numbers or texts is expected");
        }
        values
    }

    /// A table of names and values of any feature type.
    pub fn value_map(&mut self, key: &'static str) -> Vec<(String, Value)> {
        let mut map = Vec::new();
        for (name, mut value) in self.map(key) {
            match to_value(value.take()) {
                Some(value) => map.push((name, value)),
                None => self.mistake(key, format!("{name} is no value")),
            }
        }
        map
    }

    /// A table of names and texts, in the order of the names.
    pub fn text_map(&mut self, key: &'static str) -> Vec<(String, String)> {
        let mut map = Vec::new();
        for (name, mut value) in self.map(key) {
            match value.take() {
                ValueInner::String(text) => map.push((name, text.into_owned())),
                other => self.mistake(key, format!("{name}: text is expected, not {}", found(&other))),
            }
        }
        map
    }

    /// A table of names and versions.
    pub fn versions(&mut self, key: &'static str) -> Vec<(Arc<str>, u32)> {
        let mut map = Vec::new();
        for (name, value) in self.map(key) {
            match value.as_integer().and_then(|v| u32::try_from(v).ok()) {
                Some(version) => map.push((name.into(), version)),
                None => self.mistake(key, format!("{name}: a version number is expected")),
            }
        }
        map
    }

    fn map(&mut self, key: &'static str) -> Vec<(String, Toml<'de>)> {
        let table = self.get(key, "a table", |v| match v {
            ValueInner::Table(table) => Ok(table),
            other => Err(other),
        });
        table.into_iter().flatten().map(|(k, v)| (k.name.into_owned(), v)).collect()
    }

    /// A table inside this one.
    pub fn table(&mut self, key: &'static str) -> Option<Keys<'de, 'm>> {
        self.expected.push(key);
        let mut value = self.table.remove(key)?;
        self.places.push((key, self.file.place(value.span)));
        Keys::of(key.to_owned(), &mut value, &self.file, self.mistakes)
    }

    /// The tables of a list, `[[key]]`.
    pub fn tables(&mut self, key: &'static str) -> Vec<Keys<'de, 'm>> {
        let what = if self.what == "file" { key.to_owned() } else { format!("{}: {key}", self.what) };
        let items = self.array(key).unwrap_or_default();
        items.into_iter().filter_map(|mut item| Keys::of(what.clone(), &mut item, &self.file, self.mistakes)).collect()
    }

    /// Complains about every key that nobody asked for.
    pub fn finish(self) {
        for key in self.table.keys() {
            let mut expected = self.expected.clone();
            expected.sort_unstable();
            let message = format!("{}: unknown key {:?}; there are {}", self.what, key.name, expected.join(", "));
            self.mistakes.add(&self.file.place(key.span), message);
        }
    }
}

/// Whether this is a name as the catalog takes it: lower-case letters, digits and `_`, 64 at most, a letter first.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_BYTES_MAX
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

fn found(value: &ValueInner<'_>) -> &'static str {
    match value {
        ValueInner::String(_) => "text",
        ValueInner::Integer(_) => "a whole number",
        ValueInner::Float(_) => "a float",
        ValueInner::Boolean(_) => "a boolean",
        ValueInner::Array(_) => "a list",
        ValueInner::Table(_) => "a table",
    }
}

fn to_value(value: ValueInner<'_>) -> Option<Value> {
    Some(match value {
        ValueInner::String(s) => Value::String(s.into_owned()),
        ValueInner::Integer(i) => Value::I64(i),
        ValueInner::Float(f) => Value::F64(f),
        ValueInner::Boolean(b) => Value::Bool(b),
        ValueInner::Array(items) => {
            let items: Vec<Value> = items.into_iter().map(|mut v| to_value(v.take())).collect::<Option<_>>()?;
            let kind = items.first().map_or(Kind::F64, |v| v.feature_type().kind());
            if items.iter().any(|v| v.feature_type() != crate::FeatureType::One(kind)) {
                return None;
            }
            Value::List(kind, items)
        }
        ValueInner::Table(_) => return None,
    })
}
