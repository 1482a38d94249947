//! Plugins for mie: a file each.

