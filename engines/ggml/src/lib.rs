//! llama.cpp on tritgemm: a plug-in of ggml that runs the ternary products (TQ1_0, TQ2_0, Q2_0)
//! of an unmodified one. README.md says how it is loaded; this page, how it is made.
//!
//! | module | what it is |
//! |---|---|
//! | `sys` | ggml's structures and functions, as far as they are used |
//! | `process` | where these functions are in the process, and which of its memory is a file's |
//! | `version`, `probe` | which ggml is taken: by its number, and by what it does |
//! | `settings`, `stats` | what the environment asks, and what was done |
//! | `plugin` | registry, device and streams, as ggml calls them |
//! | `eligible` | which nodes are taken, and why others are left |
//! | `graph` | nodes of a graph replaced, computed and restored |
//! | `layers` | weights, packed once |
//! | `product` | one product, on ggml's threads |
//!
//! Nothing of ggml is linked: a process without it can have the library loaded and is as it was.
#![cfg(target_os = "linux")]

mod eligible;
#[cfg(test)]
mod fake;
mod graph;
mod layers;
mod plugin;
mod probe;
mod process;
mod product;
mod settings;
mod stats;
mod sys;
#[cfg(test)]
mod tests;
mod version;

use core::ffi::{CStr, c_int, c_void};
use core::fmt::Arguments;
use core::ptr::null_mut;
use graph::{Template, lock};
use plugin::Plugin;
use process::Libraries;
use settings::Settings;
use stats::Stats;
use std::io::Write;
use std::sync::Mutex;
use sys::{Ggml, Lookup, Registry};
use tritgemm::Backend;

/// A line for the user, who may have closed what it is written to. It is written at once: other
/// threads of the process write theirs meanwhile.
pub(crate) fn say(line: Arguments<'_>) {
    let line = format!("tritgemm: {line}\n");
    _ = std::io::stderr().write_all(line.as_bytes());
}

/// Makes a plug-in for the ggml whose functions `lookup` finds; `None` if it is off.
///
/// # Errors
/// Why there can be none, for the user.
///
/// # Safety
/// As [`Ggml::find`].
unsafe fn prepare(
    lookup: Lookup<'_>,
    settings: Settings,
) -> Result<Option<(Plugin, c_int)>, String> {
    let Some(activations) = settings.activations else {
        return Ok(None);
    };
    // SAFETY: the caller's promise.
    let ggml = unsafe { Ggml::find(lookup) };
    let ggml = ggml.map_err(|name| {
        format!("{name} is not in this process, or there is more than one ggml in it")
    })?;
    // SAFETY: a string that ggml keeps.
    let version = unsafe { CStr::from_ptr((ggml.ggml_version)()) };
    let version = version.to_string_lossy();
    version::check(&version, settings.force)?;
    let otherwise = |what| format!("ggml {version}: {what}");
    let found = probe::probe(&ggml).map_err(otherwise)?;
    let template = Template::new(&ggml).ok_or("custom nodes are laid out otherwise");
    let template = template.map_err(otherwise)?;
    let backend = Backend::active().map_err(|why| format!("TRITGEMM_ISA: {why}"))?;
    say(format_args!(
        "ternary products of ggml {version} on {}, {}",
        backend.name(),
        activations.describe(),
    ));
    let plugin = Plugin {
        ggml,
        settings,
        activations,
        cpu: found.cpu,
        mul_mat: found.mul_mat,
        mul_mat_id: found.mul_mat_id,
        types: found.types,
        template,
        shared: Mutex::default(),
        stats: Stats::default(),
    };
    Ok(Some((plugin, found.api_version)))
}

/// Whether a registry is of the one ggml whose functions `lookup` finds.
///
/// # Safety
/// A registry of [`Plugin::register`].
unsafe fn is_of(registry: *mut Registry, lookup: Lookup<'_>) -> bool {
    // SAFETY: the caller's promise.
    let ggml = unsafe { &plugin::of_registry(registry).ggml };
    lookup(c"ggml_backend_register") == ggml.ggml_backend_register as *mut c_void
}

#[derive(Clone, Copy)]
struct Loaded(*mut Registry);

// SAFETY: a number, until ggml asks for it.
unsafe impl Send for Loaded {}

/// The registry of this process, once there is one.
static LOADED: Mutex<Option<Loaded>> = Mutex::new(None);

fn load() -> *mut Registry {
    let mut loaded = lock(&LOADED);
    let libraries = Libraries::loaded();
    let lookup = |name: &CStr| libraries.find(name);
    if let Some(Loaded(registry)) = *loaded {
        // SAFETY: a registry of `Plugin::register`.
        if unsafe { is_of(registry, &lookup) } {
            return registry;
        }
        say(format_args!(
            "not loaded: there is another ggml in this process that has it"
        ));
        return null_mut();
    }
    let prepared = Settings::from_environment().and_then(|settings| {
        // SAFETY: functions under ggml's names are ggml's.
        unsafe { prepare(&lookup, settings) }
    });
    match prepared {
        Ok(Some((plugin, api_version))) => {
            if plugin.settings.stats {
                // SAFETY: a function that can be called at any time.
                unsafe { libc::atexit(say_stats) };
            }
            let registry = plugin.register(api_version);
            *loaded = Some(Loaded(registry));
            registry
        }
        Ok(None) => null_mut(),
        Err(why) => {
            say(format_args!("not loaded: {why}"));
            null_mut()
        }
    }
}

extern "C" fn say_stats() {
    if let Some(Loaded(registry)) = &*lock(&LOADED) {
        // SAFETY: a registry of `Plugin::register`.
        say(format_args!("{}", unsafe {
            &plugin::of_registry(*registry).stats
        }));
    }
}

/// What ggml asks first: 0 if the plug-in is turned off.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_score() -> c_int {
    let off = Settings::from_environment().is_ok_and(|it| it.activations.is_none());
    c_int::from(!off)
}

/// What ggml asks next: the registry of the plug-in, or null.
#[unsafe(no_mangle)]
pub extern "C" fn ggml_backend_init() -> *mut Registry {
    std::panic::catch_unwind(load).unwrap_or(null_mut())
}

/// Where the library was preloaded it registers itself, for programs that have their CPU backend
/// built in and load no others.
extern "C" fn preloaded() {
    let named = std::env::var_os("LD_PRELOAD");
    let named = named.is_some_and(|it| it.to_string_lossy().contains("tritgemm_ggml"));
    let register = || {
        let found = Libraries::loaded().find(c"ggml_backend_register");
        if found.is_null() || ggml_backend_score() == 0 {
            return;
        }
        let registry = load();
        if !registry.is_null() {
            // SAFETY: a registry of `Plugin::register`, whose plug-in has ggml's functions.
            unsafe { plugin::register(registry) };
        }
    };
    if named {
        _ = std::panic::catch_unwind(register);
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static PRELOADED: extern "C" fn() = preloaded;
