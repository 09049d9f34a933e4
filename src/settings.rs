//! Settings: flag, environment, settings.json, default.

/// All settings of INTERFACES.
#[derive(Clone, Debug)]
pub struct Settings {}
