//! References to features, `view:feature` and `view@v2:feature`, taken apart the way Feast does it.

use std::collections::HashMap;

use crate::raised::{Class, Raised};

/// A reference, taken apart.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reference {
    pub(crate) view: String,
    pub(crate) version: Option<Version>,
    pub(crate) feature: String,
}

/// Python's integers have no end; what no registry can hold is kept as its digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Version(pub(crate) String);

impl Version {
    pub(crate) fn number(&self) -> Option<i32> {
        self.0.parse().ok()
    }
}

impl Reference {
    pub(crate) fn parse(text: &str) -> Result<Self, Raised> {
        let Some((view, feature)) = text.split_once(':') else {
            return Err(Raised::value(format!(
                "Invalid feature reference '{text}'. Expected format: '<feature_view>:<feature>' or '<feature_view>@<version>:<feature>'"
            )));
        };
        let (view, version) = match view.split_once('@') {
            None => (view, None),
            Some((name, version)) if version.is_empty() || version.eq_ignore_ascii_case("latest") => (name, None),
            Some((name, version)) => match version.strip_prefix(['v', 'V']).and_then(digits) {
                Some(version) => (name, Some(Version(version))),
                // Not a version at all: then the whole is the name.
                None => (view, None),
            },
        };
        Ok(Self { view: view.to_owned(), version, feature: feature.to_owned() })
    }

    /// What a view goes by in a request.
    pub(crate) fn view_key(&self) -> String {
        self.version.as_ref().map_or_else(|| self.view.clone(), |v| format!("{}@v{}", self.view, v.0))
    }
}

/// `\d+$` as Python reads it, without leading zeros.
fn digits(text: &str) -> Option<String> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    let digits: Option<String> = text.chars().map(decimal_digit).collect();
    let digits = digits.filter(|d| !d.is_empty())?;
    let trimmed = digits.trim_start_matches('0');
    Some(if trimmed.is_empty() { "0".to_owned() } else { trimmed.to_owned() })
}

/// The decimal digits of the scripts that are seen in the field: ASCII, full width, Arabic, Devanagari.
fn decimal_digit(c: char) -> Option<char> {
    let zeros = ['0', '\u{ff10}', '\u{660}', '\u{6f0}', '\u{966}'];
    let value = zeros.iter().find_map(|zero| (c as u32).checked_sub(*zero as u32).filter(|d| *d < 10))?;
    char::from_digit(value, 10)
}

/// Two features that would be one column.
pub(crate) fn collisions(refs: &[String], parsed: &[Reference], full_names: bool) -> Result<(), Raised> {
    let mut seen = HashMap::new();
    let mut names: Vec<&str> = Vec::new();
    for (text, reference) in refs.iter().zip(parsed) {
        let name = if full_names { text.as_str() } else { reference.feature.as_str() };
        let count = seen.entry(name).or_insert(0);
        *count += 1;
        if *count == 2 {
            names.push(name);
        }
    }
    if names.is_empty() {
        return Ok(());
    }
    let (collided, advice): (Vec<String>, &str) = if full_names {
        (
            names.iter().map(|n| n.replace(':', "__")).collect(),
            "To resolve this collision, please ensure that the feature views or their own features have different names. If you're intentionally joining the same feature view twice on different sets of entities, please rename one of the feature views with '.with_name'.",
        )
    } else {
        let ends = |text: &&String| names.iter().any(|n| text.ends_with(&format!(":{n}")));
        let second = |text: &String| text.split(':').nth(1).unwrap_or_default().to_owned();
        (
            refs.iter().filter(ends).map(second).collect(),
            "To resolve this collision, either use the full feature name by setting 'full_feature_names=True', or ensure that the features in question have different names.",
        )
    };
    let mut unique = Vec::new();
    collided.into_iter().for_each(|name| {
        if !unique.contains(&name) {
            unique.push(name)
        }
    });
    let message = format!("Duplicate features named {} found.\n{advice}", unique.join(", "));
    Err(Raised { class: Class::Feast("FeatureNameCollisionError", 500), message })
}
