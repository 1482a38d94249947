//! The catalogue: what plugins exist, gathered at link time from `register!` lines.
//!
//! A plugin states each fact once. Its name is the `name` of its `#[typetag::serde]` attribute;
//! its documentation and that of its options are doc comments; its defaults are its `Default`.
//! [`register!`](crate::register) adds nothing but the source of its mathematics.

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Serialize;
use serde_json::{Map, Value, json};

pub use crate::schema::Choice;
use crate::schema::{Schemas, description};

/// The nine families of plugins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Samples, labels, splits and where each raw thing lies.
    Dataset,
    /// Raw thing to named tensors.
    Modality,
    /// Tensors to a feature vector.
    Encoder,
    /// Features and logits to a joint decision.
    Fusion,
    /// Outputs to named loss terms.
    Objective,
    /// Gradients to new parameters.
    Optimizer,
    /// Changes gradients before, or steps after, the update rule.
    GradientModifier,
    /// Feedback after a step, an epoch or a phase.
    Controller,
    /// The order of work, phase by phase.
    Strategy,
}

impl Family {
    /// All families, in the order in which a sample meets them.
    pub const ALL: [Self; 9] = [
        Self::Dataset,
        Self::Modality,
        Self::Encoder,
        Self::Fusion,
        Self::Objective,
        Self::Optimizer,
        Self::GradientModifier,
        Self::Controller,
        Self::Strategy,
    ];

    /// Name used in messages, configuration folders and the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dataset => "dataset",
            Self::Modality => "modality",
            Self::Encoder => "encoder",
            Self::Fusion => "fusion",
            Self::Objective => "objective",
            Self::Optimizer => "optimizer",
            Self::GradientModifier => "gradient_modifier",
            Self::Controller => "controller",
            Self::Strategy => "strategy",
        }
    }
}

/// Gives a plugin's configuration an example that is valid as it stands.
///
/// Anything with a `Default` has one; a plugin with a required option implements it by hand.
pub trait Example {
    /// Returns the example.
    fn example() -> Self;
}

impl<T: Default> Example for T {
    fn example() -> Self {
        T::default()
    }
}

/// A row of the catalogue; made by [`register!`](crate::register).
pub struct Plugin {
    /// Family of the plugin.
    pub family: Family,
    /// Module that holds it.
    pub module: &'static str,
    /// Where its mathematics or file format comes from.
    pub source: &'static str,
    /// Its name in configurations.
    pub name: fn() -> &'static str,
    /// Its example, as the table a configuration would hold (with `name`).
    pub example: fn() -> Value,
    /// Its JSON schema, with documentation, without `name`.
    pub schema: fn(&mut SchemaGenerator) -> Schema,
}

inventory::collect!(Plugin);

/// Lists all plugins that are linked in, by family and name.
pub fn plugins() -> Vec<&'static Plugin> {
    let mut rows: Vec<_> = inventory::iter::<Plugin>.into_iter().collect();
    // inventory promises no order.
    rows.sort_by_key(|row| (row.family, (row.name)(), row.module));
    rows
}

/// Lists the plugins of a family, by name.
pub fn plugins_of(family: Family) -> Vec<&'static Plugin> {
    plugins().into_iter().filter(|row| row.family == family).collect()
}

/// Finds plugins by name; one name may stand in several families.
pub fn find(name: &str) -> Vec<&'static Plugin> {
    plugins().into_iter().filter(|row| (row.name)() == name).collect()
}

/// One option of a plugin, for people.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct OptionPage {
    /// Key in the configuration.
    pub key: String,
    /// What is written there: `a number`, `a list of texts`, `a table` …
    pub kind: String,
    /// What it does, its unit, range and origin.
    pub documentation: String,
    /// Value when the key is absent; `None` for a required option.
    pub default: Option<Value>,
    /// What it can be, where that is one of a few things.
    pub choices: Vec<Choice>,
    /// Its keys in alphabetical order, where it is a table.
    pub keys: Vec<OptionPage>,
}

/// What a person can read about a plugin.
#[derive(Debug, Clone, Serialize, PartialEq)]
pub struct Page {
    /// Family name.
    pub family: &'static str,
    /// Plugin name.
    pub name: &'static str,
    /// Documentation of the plugin, Markdown.
    pub documentation: String,
    /// Where its mathematics or format comes from.
    pub source: &'static str,
    /// Its options in alphabetical order.
    pub options: Vec<OptionPage>,
}

impl Plugin {
    /// Gathers what the doc comments and defaults say about this plugin.
    pub fn page(&self) -> Page {
        let mut generator = SchemaGenerator::default();
        let schema = (self.schema)(&mut generator).to_value();
        let schemas = Schemas(generator.definitions());
        Page {
            family: self.family.name(),
            name: (self.name)(),
            documentation: description(&schema).unwrap_or_default().to_owned(),
            source: self.source,
            options: options(&schemas, &schema, &(self.example)()),
        }
    }
}

/// The keys of a table's schema; defaults are those of `example`.
fn options(schemas: &Schemas<'_>, table: &Value, example: &Value) -> Vec<OptionPage> {
    let required = table.get("required").and_then(Value::as_array);
    let required = |key: &str| required.is_some_and(|keys| keys.iter().any(|k| k == key));
    let option = |(key, property): (&String, &Value)| {
        let default = example.get(key).cloned().unwrap_or(Value::Null);
        let schema = schemas.resolve(property);
        OptionPage {
            key: key.clone(),
            kind: schemas.kind(property),
            documentation: description(property).unwrap_or_default().to_owned(),
            choices: schemas.choices(schema),
            keys: options(schemas, schema, &default),
            default: (!required(key)).then_some(default),
        }
    };
    let properties = table.get("properties").and_then(Value::as_object);
    let mut found: Vec<OptionPage> = properties.into_iter().flatten().map(option).collect();
    // A table whose keys the user names: what lies below each of them.
    if let Some(each) = table.get("additionalProperties").filter(|each| each.is_object()) {
        let first = example.as_object().and_then(|named| named.values().next());
        for mut option in options(schemas, schemas.resolve(each), first.unwrap_or(&Value::Null)) {
            option.key = format!("NAME.{}", option.key);
            found.push(option);
        }
    }
    found
}

/// Builds the schema of "any plugin of this family", for fields that hold one.
#[doc(hidden)]
pub fn family_schema(family: Family, generator: &mut SchemaGenerator) -> Schema {
    let choices: Vec<Value> = plugins_of(family)
        .into_iter()
        .map(|row| {
            let mut schema = (row.schema)(generator).to_value();
            if let Some(object) = schema.as_object_mut() {
                // typetag reads `name` beside the options, in one table.
                let properties = object.entry("properties").or_insert_with(|| json!({}));
                if let Some(properties) = properties.as_object_mut() {
                    let mut with_name = Map::new();
                    with_name.insert("name".to_owned(), json!({ "const": (row.name)() }));
                    with_name.append(properties);
                    *properties = with_name;
                }
                match object.entry("required").or_insert_with(|| json!([])) {
                    Value::Array(keys) => keys.insert(0, json!("name")),
                    other => *other = json!(["name"]),
                }
            }
            schema
        })
        .collect();
    let mut schema = Map::new();
    schema.insert("oneOf".to_owned(), Value::Array(choices));
    schema.into()
}

/// Serialises an example the way a configuration would hold it.
#[doc(hidden)]
pub fn example_table<T: Serialize + ?Sized>(example: &T) -> Value {
    serde_json::to_value(example).unwrap_or(Value::Null)
}

/// Builds a catalogue row, holding a plugin to what a family asks of its configuration.
#[doc(hidden)]
pub const fn row<C>(
    family: Family,
    module: &'static str,
    source: &'static str,
    name: fn() -> &'static str,
    example: fn() -> Value,
) -> Plugin
where
    C: Example + JsonSchema + Serialize,
{
    Plugin { family, module, source, name, example, schema: C::json_schema }
}

/// Declares a family in its module: its row constructor and the schema of a boxed member.
macro_rules! plugin_family {
    ($family:ident, $config:ident) => {
        /// Builds the catalogue row of `C`; support of [`register!`](crate::register).
        #[doc(hidden)]
        pub const fn row<C>(module: &'static str, source: &'static str) -> $crate::catalogue::Plugin
        where
            C: $config
                + $crate::catalogue::Example
                + schemars::JsonSchema
                + serde::Serialize
                + 'static,
        {
            fn name<C: $config + $crate::catalogue::Example>() -> &'static str {
                $config::typetag_name(&C::example())
            }
            fn example<C: $config + $crate::catalogue::Example + 'static>() -> serde_json::Value {
                let example: Box<dyn $config> = Box::new(C::example());
                $crate::catalogue::example_table(&example)
            }
            $crate::catalogue::row::<C>(
                $crate::catalogue::Family::$family,
                module,
                source,
                name::<C>,
                example::<C>,
            )
        }

        impl schemars::JsonSchema for Box<dyn $config> {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($config).into()
            }
            fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
                $crate::catalogue::family_schema($crate::catalogue::Family::$family, generator)
            }
        }
    };
}
pub(crate) use plugin_family;

/// Adds a plugin's configuration type to the catalogue.
///
/// Takes the family, the type and where the mathematics comes from:
/// `register!(optimizer::<SgdConfig>, source = "Polyak 1964");`
#[macro_export]
macro_rules! register {
    ($family:ident :: < $config:ty >, source = $source:expr) => {
        inventory::submit! {
            $crate::family::$family::row::<$config>(module_path!(), $source)
        }
    };
}
