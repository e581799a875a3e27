//! What a user reads when a plan or a profile cannot be used.

use std::fmt::Write;

use crate::prelude::*;

/// An error and its hint, as the command line prints them.
fn told(error: &ConfigError) -> String {
    let hint = error.hint().map(|h| format!("\nhint: {h}")).unwrap_or_default();
    format!("error: {error}{hint}\n")
}

/// Every document, followed by the message about it.
fn transcript(documents: &[&str], read: impl Fn(&str) -> Result<(), ConfigError>) -> String {
    let mut out = String::new();
    for text in documents {
        let error = read(text).expect_err(text);
        writeln!(out, "{}\n---\n{}\n", text.trim(), told(&error)).unwrap();
    }
    out
}

#[test]
fn plans_that_cannot_be_used() {
    let documents = [
        "[[cache]]\nstrategy = \"magcash\"",
        "[[cache]]\nstrategy = \"zzz\"",
        "[[cache]]\nthreshold = 0.1",
        "[[cache]]\nstrategy = 3",
        "[[cache]]\nstrategy = \"magcache\"\ntreshold = 0.1",
        "[[cache]]\nstrategy = \"fbcache\"\nmax_skip = 2",
        "[[cache]]\nstrategy = \"magcache\"\nthreshold = \"high\"",
        "[[cache]]\nstrategy = \"magcache\"\ndialect = \"official\"",
        "[[cache]]\nstrategy = \"magcache\"",
        "[[cache]]\nstrategy = \"magcache\"\nprofile = \"wan2.1-t2v-1.3\"",
        "[[cache]]\nstrategy = \"magcache\"\nprofile = \"wan2.2-ti2v-5b\"\nvariant = \"v2v\"",
        "[[cache]]\nstrategy = \"magcache\"\nprofile = \"flux.1-dev\"\nassume_steps = 20",
        "[[cache]]\nstrategy = \"magcache\"\nratios = [1.0, nan, 0.9]",
        "[[cache]]\nstrategy = \"magcache\"\nratios = { cond = [1.0, 0.9], uncond = [1.0] }",
        "[[cache]]\nstrategy = \"magcache\"\nratios = [1.0, 0.9]\nwarmup = 1.5\nthreshold = -1.0",
        "[[cache]]\nstrategy = \"teacache\"\nprofile = \"wan2.2-ti2v-5b\"",
        "[[cache]]\nstrategy = \"teacache\"\npolicy = \"cubic\"",
        "[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"\nat = \"1..3\"",
        "[[cache]]\nstrategy = \"teacache\"\ncoefficients = [1.0, nan]\nfitted_range = [2.0, 1.0]",
        "[[cache]]\nstrategy = \"teacache\"\ncoefficients = []",
        "[[cache]]\nstrategy = \"fbcache\"\nat = \"0\"\n[[cache]]\nstrategy = \"schedule\"\nskip = [3]\nat = \"2..9\"\nexperts = [\"lo\"]",
        "[[cache]]\nstrategy = \"fbcache\"\nema = 1.0\ndownsample = 0",
        "[[cache]]\nstrategy = \"fbcache\"\nat = \"9\"",
        "[[cache]]\nstrategy = \"fbcache\"\nat = \"block\"",
        "[[cache]]\nstrategy = \"fbcache\"\n[[cache]]\nstrategy = \"fbcache\"",
        "[[cache]]\nstrategy = \"fbcache\"\nforecast = { type = \"taylr\" }",
        "[[cache]]\nstrategy = \"fbcache\"\nforecast = \"taylor\"",
        "[[cache]]\nstrategy = \"priority\"\nmembers = [\"fbcache\", \"teacache\"]",
        "[[cache]]\nstrategy = \"schedule\"\nskip = { conf = [3] }",
        "[cache]\nstrategy = \"fbcache\"",
        "[[residuals]]\ndtype = \"f16\"",
        "[[cache]]\nstrategy = \"fbcache\"\nforecast = { type = \"taylor\", order = 0 }",
        "[[cache]]\nstrategy = \"fbcache\"\nforecast = { type = \"taylor\", order = 5, of = \"output\" }",
        "[[cache]]\nstrategy = \"fbcache\"\nforecast = { type = \"taylor\", dialect = \"paper\" }",
        "[[cache]]\nstrategy = \"dbcache\"\nfront = 8",
        "[[cache]]\nstrategy = \"dbcache\"\nfront = 0\nback = 3\nthreshold = -0.1",
        "[[cache]]\nstrategy = \"dbcache\"\nat = \"1\"\nfront = 1",
        "[[cache]]\nstrategy = \"fbcache\"\nat = \"forward\"",
        "[[cache]]\nstrategy = \"fbcache\"\nat = \"mixer\"",
        "[[cache]]\nstrategy = \"schedule\"\nskip = [2]\nat = \"mixr\"",
        "[[cache]]\nstrategy = \"easycache\"\nat = \"mixer\"",
        "[[cache]]\nstrategy = \"schedule\"\nskip = [2]\nat = \"mixer\"\n[[cache]]\nstrategy = \"schedule\"\nskip = [3]\nat = \"mixer\"",
        "[[cache]]\nstrategy = \"priority\"\nmembers = [{ strategy = \"fbcache\" }]",
        "[[cache]]\nstrategy = \"any-veto\"\nmembers = [{ strategy = \"fbcache\", warmup = 2 }]",
        "[[cache]]\nstrategy = \"schedule\"\nskip = [2, 20]",
        "[[cache]]\nstrategy = \"easycache\"\nthreshold = -0.1",
        "[[cache]]\nstrategy = \"easycache\"\nat = \"all\"",
        "[[cache]]\nstrategy = \"sencache\"",
        "[[cache]]\nstrategy = \"sencache\"\nsensitivity = [{ timesteps = [1000, 0], latent = [1.0], timestep = [1.0, -1.0] }]",
        "[[cache]]\nstrategy = \"sencache\"\nearly = 1.5\nsensitivity = [{ expert = 1, timesteps = [9], latent = [1.0], timestep = [1.0] }]",
        "[[cache]]\nstrategy = \"cfg-cache\"",
        "[[cache]]\nstrategy = \"cfg-cache\"\ninterval = 0\nstart = 1.5\nalpha_low = -1.0\nbranches = \"cond-decides\"",
        "[[cache]]\nstrategy = \"easycache\"\n[[cache]]\nstrategy = \"easycache\"",
        "[[cache]]\nstrategy = \"priority\"\nmembers = [{ strategy = \"fbcache\" }, { strategy = \"easycache\" }]",
        "[residuals]\ndtype = \"f8\"",
        "[residuals]\nbudget = \"2 GiBs\"",
        "[residuals]\nbugdet = \"2 GiB\"",
        "[[caches]]\nstrategy = \"fbcache\"",
        "cache = ",
    ];
    let model = ModelMeta { modules: (&["mixer"]).into(), ..simple("toy", 3) };
    let run = alone(20);
    let read = |text: &str| build(text, &model, &run).map(drop);
    insta::assert_snapshot!(transcript(&documents, read));
}

#[test]
fn profiles_that_cannot_be_used() {
    let documents = [
        "name = \"x\"\n[[curve]]\nsteps = 3\nratios = { cond = [1.0, nan, 0.9] }",
        "name = \"x\"\n[[curve]]\nsteps = 3\nratios = { cond = [1.0, 0.9] }",
        "name = \"x\"\n[[curve]]\nsteps = 2\nratios = { cond = [1.0, -0.9], uncond = [1.0, inf] }",
        "name = \"x\"\n[[curve]]\nsteps = 0\nratios = {}",
        "name = \"x\"\n[[curve]]\nsteps = 2\nratio = { cond = [1.0, 0.9] }",
        "name = \"x\"\n[[fit]]\nsignal = \"modulated-input\"\ncoefficients = []\nwarmup = 2.0\nlast_steps = 1",
        "name = \"x\"\n[[fit]]\nsignal = \"modulated\"\ncoefficients = [1.0]\nwarmup = 1\nlast_steps = 1",
        "name = \"x\"\n[[sensitivity]]\ntimesteps = []\nlatent = []\ntimestep = []\nthresholds = [0.1, -0.1]",
        "name = \"x\"\n[[sensitivity]]\ntimesteps = [1000, 500]\nlatent = [1.0]\ntimestep = [1.0, nan]",
        "summary = \"nameless\"",
        "name = \"x\"\n[[fit]]\nsignal = \"modulated-input\"\ncoefficients = [1.0]\nwarmup = 1\nlast_steps = 1\n\
         [[fit]]\nsignal = \"modulated-input\"\ncoefficients = [2.0]\nwarmup = 1\nlast_steps = 1\n\
         [[fit]]\nexpert = 1\nsignal = \"timestep-embedding\"\ncoefficients = [2.0]\nwarmup = 1\nlast_steps = 1",
    ];
    insta::assert_snapshot!(transcript(&documents, |text| Profile::parse(text, "x.toml").map(drop)));
}

#[test]
fn a_signal_is_asked_for_at_block_0_alone() {
    let run = alone(20);
    let build = |text: &str| build(text, &simple("toy", 8), &run).map(drop);
    let tea = "[[cache]]\nstrategy = \"teacache\"\npolicy = \"linear\"\n";
    let hidden = "[[cache]]\nstrategy = \"fbcache\"\nmetric = \"hidden_rel_l1\"\n";
    let any = "[[cache]]\nstrategy = \"priority\"\nmembers = [{ strategy = \"teacache\", policy = \"linear\" }, { strategy = \"fbcache\" }]\n";
    let schedule = |at: &str| format!("[[cache]]\nstrategy = \"schedule\"\nskip = [3]\nat = \"{at}\"\n");
    let front = |front: usize| {
        format!("[[cache]]\nstrategy = \"dbcache\"\nfront = {front}\nback = 2\nat = \"0..8\"\n")
    };
    for inner in [tea, hidden, any] {
        for outer in [front(2), schedule("3..4"), schedule("0..4"), schedule("1..8")] {
            let error = build(&format!("{outer}{inner}")).unwrap_err();
            let told = told(&error);
            assert!(told.contains("cache[1]") && told.contains("cache[0]"), "{outer}{inner}\n{told}");
            assert!(told.contains("the input of block 0"), "{told}");
        }
        assert!(
            told(&build(&format!("{inner}at = \"2..8\"\n")).unwrap_err()).contains("its range starts at 2")
        );
        // With the other table outside the range, or next to it, nothing is cut.
        for good in
            [format!("{inner}{}", schedule("3..4")), format!("{}{inner}at = \"0..4\"\n", schedule("4..8"))]
        {
            build(&good).unwrap();
        }
    }
}

#[test]
fn a_name_that_is_not_known_comes_with_the_near_one_or_with_all() {
    magcache_models::link();
    let unknown = |kind: &str, name: &str| {
        let table = |strategy: &str, profile: &str| {
            let text = format!("[[cache]]\nstrategy = \"{strategy}\"\nprofile = \"{profile}\"");
            build(&text, &simple("toy", 3), ANY).map(drop)
        };
        match kind {
            "strategy" => table(name, "flux.1-dev"),
            "profile" => table("magcache", name),
            _ => meta::model(name).map(drop),
        }
    };
    let all: [(&str, &str, &str, Vec<&str>); 3] = [
        ("strategy", "teecache", "teacache", strategies().iter().map(|info| info.name).collect()),
        ("profile", "flux.1-dve", "flux.1-dev", meta::profiles().iter().map(|info| info.name).collect()),
        ("model", "flux.1-dve", "flux.1-dev", meta::models().iter().map(|model| &*model.name).collect()),
    ];
    for (kind, near, meant, names) in all {
        let error = unknown(kind, near).unwrap_err();
        assert!(error.to_string().contains(&format!("unknown {kind} {near:?}")), "{error}");
        assert_eq!(error.hint(), Some(format!("did you mean {meant:?}?")));
        let hint = unknown(kind, "zzz").unwrap_err().hint().unwrap_or_default();
        assert_eq!(hint, format!("registered are {}", names.join(", ")));
    }
}
