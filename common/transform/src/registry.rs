//! The kinds of transform that a pipeline may name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use millrace_common::types::{DEFAULT_DUPLICATE_WINDOW, Problem, TransformDefinition};
use serde_json::{Map, Value};

use crate::Transform;
use crate::clicks::Clicks;
use crate::raw::Raw;

/// A kind of transform: checks options and makes transforms of them.
pub trait Kind: Send + Sync {
    /// As a pipeline's file names it.
    fn name(&self) -> &'static str;

    /// Everything that is wrong with the options; nothing if they can be built. It looks at the options alone, for
    /// the master asks it too, on another host.
    fn check(&self, options: &Map<String, Value>) -> Vec<Problem>;

    /// Makes a transform for one slot.
    ///
    /// # Errors
    /// When something that the options name can't be used on this host, such as a file.
    fn build(&self, options: &Map<String, Value>) -> Result<Box<dyn Transform>, BuildError>;

    /// The duplicate window of a pipeline that does not give one, in offsets. Zero where a key that comes again is
    /// nothing special.
    fn default_duplicate_window(&self) -> u64 {
        DEFAULT_DUPLICATE_WINDOW
    }
}

/// A transform that can't be built here.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the transform {kind} can't be built: {reason}")]
pub struct BuildError {
    pub kind: String,
    pub reason: String,
}

/// All kinds that this program knows. Cloning is cheap.
#[derive(Clone)]
pub struct Registry(Arc<BTreeMap<&'static str, Box<dyn Kind>>>);

impl Default for Registry {
    /// The built-in kinds.
    fn default() -> Self {
        Self::with(Vec::new())
    }
}

impl Registry {
    /// The built-in kinds and `more`; one of the same name replaces the built-in one.
    pub fn with(more: Vec<Box<dyn Kind>>) -> Self {
        let built_in: [Box<dyn Kind>; 2] = [Box::new(Clicks::default()), Box::new(Raw)];
        Self(Arc::new(built_in.into_iter().chain(more).map(|kind| (kind.name(), kind)).collect()))
    }

    pub fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.keys().copied()
    }

    /// Everything that is wrong with the definition: an unknown kind, or its options.
    pub fn check(&self, definition: &TransformDefinition) -> Vec<Problem> {
        match self.kind(definition) {
            Some(kind) => kind.check(&definition.options),
            None => vec![Problem {
                key: "transform.kind".into(),
                value: definition.kind.clone(),
                accepted: self.accepted(),
            }],
        }
    }

    /// The duplicate window of a pipeline with this transform that does not give one.
    pub fn default_duplicate_window(&self, definition: &TransformDefinition) -> u64 {
        self.kind(definition).map_or(DEFAULT_DUPLICATE_WINDOW, Kind::default_duplicate_window)
    }

    /// Makes a transform for one slot.
    ///
    /// # Errors
    /// A kind that this program does not know, options that its kind refuses, or what [`Kind::build`] reports.
    pub fn build(&self, definition: &TransformDefinition) -> Result<Box<dyn Transform>, BuildError> {
        let refused = |problem: &Problem| BuildError {
            kind: definition.kind.clone(),
            reason: format!("{} = {}: expected {}", problem.key, problem.value, problem.accepted),
        };
        if let Some(problem) = self.check(definition).first() {
            return Err(refused(problem));
        }
        let kind = self.kind(definition).expect("checked above");
        kind.build(&definition.options)
    }

    fn kind(&self, definition: &TransformDefinition) -> Option<&dyn Kind> {
        self.0.get(definition.kind.as_str()).map(|kind| &**kind)
    }

    fn accepted(&self) -> String {
        format!("one of {}", self.names().collect::<Vec<_>>().join(", "))
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}
