//! Compiles a catalog into plans: one per service and combination of arms that changes it, so that a request
//! picks its plan by index. Every name that does not resolve is a mistake with its place.

use std::collections::HashMap;
use std::sync::Arc;

use super::Plan;
use super::resolve::{Compiler, no_such_version};
use crate::catalog::{Catalog, Mistake, Place, Service};
use crate::experiment::{Arm, Assignment, Experiment, Status};

/// Most combinations of arms of one service. A plan is a few kilobytes; a thousand means layers were meant.
const PLANS_PER_SERVICE_MAX: usize = 1_024;

/// All plans of one catalog.
#[derive(Debug)]
pub struct PlanSet {
    services: HashMap<Arc<str>, ServicePlans>,
}

/// The plans of one service.
#[derive(Debug)]
pub struct ServicePlans {
    /// One digit per layer that changes this service.
    digits: Vec<Digit>,
    /// Indexed by the digits as a mixed-radix number; index 0 is the plan without any arm.
    plans: Vec<Arc<Plan>>,
}

/// Which option of a layer is active: 0 = none, then every arm of every running experiment that matters.
#[derive(Debug)]
struct Digit {
    layer: usize,
    stride: usize,
    options: Vec<(Arc<Experiment>, usize)>,
}

impl PlanSet {
    /// The plans of this service.
    pub fn service(&self, name: &str) -> Option<&ServicePlans> {
        self.services.get(name)
    }

    /// Every service with its plans, in the order of their names.
    pub fn services(&self) -> impl Iterator<Item = (&Arc<str>, &ServicePlans)> {
        let mut all: Vec<_> = self.services.iter().collect();
        all.sort_by_key(|(name, _)| Arc::clone(name));
        all.into_iter()
    }
}

impl ServicePlans {
    /// The plan for this assignment. Arms of experiments that do not change this service are dropped from the
    /// assignment: its callers are not exposed to them.
    pub fn choose(&self, assignment: &mut Assignment) -> Arc<Plan> {
        let mut index = 0;
        assignment.arms.retain(|assigned| {
            let option = self.digits.iter().find(|d| d.layer == assigned.layer).and_then(|d| {
                let same =
                    |(e, arm): &(Arc<Experiment>, usize)| *arm == assigned.arm && Arc::ptr_eq(e, &assigned.experiment);
                d.options.iter().position(same).map(|i| (i + 1) * d.stride)
            });
            index += option.unwrap_or(0);
            option.is_some()
        });
        Arc::clone(&self.plans[index])
    }

    /// The plan without any arm.
    pub fn base(&self) -> &Arc<Plan> {
        &self.plans[0]
    }

    /// Every plan, the one without any arm first.
    pub fn all(&self) -> &[Arc<Plan>] {
        &self.plans
    }
}

/// Compiles every service under every combination of arms, or lists every mistake.
pub fn compile(catalog: &Catalog) -> Result<PlanSet, Vec<Mistake>> {
    let mut mistakes = Vec::new();
    let mut services = HashMap::new();
    for service in &catalog.services {
        match compile_service(catalog, service) {
            Ok(plans) => {
                services.insert(Arc::clone(&service.doc.name), plans);
            }
            Err(found) => mistakes.extend(found),
        }
    }
    check_pins(catalog, &mut mistakes);
    check_reach(catalog, &services, &mut mistakes);
    mistakes.sort();
    mistakes.dedup();
    if mistakes.is_empty() { Ok(PlanSet { services }) } else { Err(mistakes) }
}

fn compile_service(catalog: &Catalog, service: &Arc<Service>) -> Result<ServicePlans, Vec<Mistake>> {
    // The plan without arms first: what it does not touch, no experiment can change.
    let base = Compiler::new(catalog, service, &[]).compile()?;
    let mut digits = Vec::new();
    let mut count = 1;
    for (layer, l) in catalog.experiments.layers.iter().enumerate() {
        let mut options = Vec::new();
        for experiment in l.experiments.iter().filter(|e| e.status == Status::Running && touches(e, service, &base)) {
            options.extend((0..experiment.arms.len()).map(|arm| (Arc::clone(experiment), arm)));
        }
        if !options.is_empty() {
            let stride = count;
            count *= options.len() + 1;
            digits.push(Digit { layer, stride, options });
        }
        if count > PLANS_PER_SERVICE_MAX {
            let message = format!(
                "service {:?}: {count} combinations of arms, more than {PLANS_PER_SERVICE_MAX}; put experiments that never meet into one layer",
                service.doc.name
            );
            return Err(vec![Mistake { at: service.doc.at.clone(), message }]);
        }
    }
    let mut plans = vec![Arc::new(base)];
    let mut mistakes = contests(service, &digits);
    for index in 1..count {
        let arms: Vec<_> = digits
            .iter()
            .filter_map(|d| (index / d.stride % (d.options.len() + 1)).checked_sub(1).map(|i| &d.options[i]))
            .map(|(experiment, arm)| (experiment.as_ref(), &experiment.arms[*arm]))
            .collect();
        match Compiler::new(catalog, service, &arms).compile() {
            Ok(plan) => plans.push(Arc::new(plan)),
            Err(found) => mistakes.extend(found),
        }
    }
    if mistakes.is_empty() { Ok(ServicePlans { digits, plans }) } else { Err(mistakes) }
}

/// Experiments of two layers can hold the same unit: what both change would silently be the later one's, while the
/// unit counts as exposed to both.
fn contests(service: &Service, digits: &[Digit]) -> Vec<Mistake> {
    let changes = |digit: &Digit| -> Vec<(String, Arc<Experiment>)> {
        let arms = digit.options.iter().map(|(experiment, arm)| (experiment, &experiment.arms[*arm]));
        arms.flat_map(|(experiment, arm)| {
            let pins = arm.pins.iter().map(|(name, _)| format!("the version of {name:?}"));
            let defaults = arm.defaults.iter().map(|(feature, _)| format!("the default of {feature}"));
            let stale = arm.max_stale.iter().map(|_| "max_stale_ms".to_owned());
            let model = arm.model.iter().map(|_| "the model".to_owned());
            let all = pins.chain(defaults).chain(stale).chain(model);
            all.map(|what| (what, Arc::clone(experiment))).collect::<Vec<_>>()
        })
        .collect()
    };
    let mut taken: Vec<(String, Arc<Experiment>)> = Vec::new();
    let mut mistakes = Vec::new();
    for digit in digits {
        let own = changes(digit);
        for (what, experiment) in &own {
            if let Some((_, other)) = taken.iter().find(|(taken, _)| taken == what) {
                let message = format!(
                    "experiment {:?} sets {what} in service {:?}, and so does {:?} in another layer: a unit may be in both; put them into one layer",
                    experiment.doc.name, service.doc.name, other.doc.name
                );
                mistakes.push(Mistake { at: experiment.doc.at.clone(), message });
            }
        }
        taken.extend(own);
    }
    mistakes
}

/// Whether some arm of the experiment changes what this service answers. Arms that pin nothing at all (an A/A
/// test, a model, free parameters) concern every service of the experiment.
fn touches(experiment: &Experiment, service: &Service, base: &Plan) -> bool {
    if !experiment.services.is_empty() {
        return experiment.services.contains(&service.doc.name);
    }
    let general = |a: &Arm| a.pins.is_empty() && a.defaults.is_empty();
    experiment.arms.iter().all(general)
        || experiment.arms.iter().any(|arm| {
            arm.pins.iter().any(|(name, _)| {
                base.reads.iter().any(|r| r.view.doc.name == *name)
                    || base.steps.iter().any(|s| s.transform.doc.name == *name)
            }) || arm.defaults.iter().any(|(feature, _)| service.features.contains(feature))
        })
}

/// What is pinned, or gets another default, must be there: a typo would change nothing and nobody would know.
/// Experiments that are over may name what is gone.
fn check_pins(catalog: &Catalog, mistakes: &mut Vec<Mistake>) {
    let mut check = |at: &Place, pins: &[(Arc<str>, u32)]| {
        for (name, version) in pins {
            let views = catalog.views.iter().filter(|v| v.doc.name == *name).map(|v| v.version);
            let transforms = catalog.transforms.iter().filter(|t| t.doc.name == *name).map(|t| t.version);
            let there: Vec<u32> = views.chain(transforms).collect();
            let message = match there.as_slice() {
                [] => format!("{name:?} is pinned, but no view or transform is named so"),
                there if !there.contains(version) => no_such_version(name, *version, there),
                _ => continue,
            };
            mistakes.push(Mistake { at: at.clone(), message });
        }
    };
    let live =
        || catalog.experiments.layers.iter().flat_map(|l| &l.experiments).filter(|e| e.status != Status::Stopped);
    catalog.services.iter().for_each(|s| check(&s.doc.at, &s.pins));
    live().for_each(|e| e.arms.iter().for_each(|arm| check(&e.doc.at, &arm.pins)));
    for (experiment, feature) in live().flat_map(|e| e.arms.iter().flat_map(|a| &a.defaults).map(move |(f, _)| (e, f)))
    {
        if !catalog.services.iter().any(|s| s.features.contains(feature)) {
            let message = format!("default of {feature}: no service answers this feature");
            mistakes.push(Mistake { at: experiment.doc.at.clone(), message });
        }
    }
}

/// Running experiments that change no service at all would never assign anybody: most likely a typo.
fn check_reach(catalog: &Catalog, services: &HashMap<Arc<str>, ServicePlans>, mistakes: &mut Vec<Mistake>) {
    if services.len() < catalog.services.len() {
        return; // Some service did not compile; judge when it does.
    }
    for experiment in catalog.experiments.layers.iter().flat_map(|l| &l.experiments) {
        let reached =
            services.values().flat_map(|s| &s.digits).flat_map(|d| &d.options).any(|(e, _)| Arc::ptr_eq(e, experiment));
        if experiment.status == Status::Running && !reached {
            mistakes.push(Mistake {
                at: experiment.doc.at.clone(),
                message: format!(
                    "experiment {:?} changes no service: nothing its arms pin is used by one",
                    experiment.doc.name
                ),
            });
        }
    }
}
