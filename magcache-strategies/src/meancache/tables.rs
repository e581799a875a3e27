//! The published schedules of `MeanCache`: official Qwen-Image and Z-Image scripts, 50 steps.

/// A schedule of 50 steps.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    /// The model and the number of computed steps.
    pub name: &'static str,
    /// The computed steps.
    pub computed: &'static [usize],
    /// The order `K` of the edge from each computed step to the next; 0 where it skips nothing.
    pub orders: &'static [usize],
}

/// Number of steps of every published schedule.
pub const STEPS: usize = 50;

/// Every published schedule.
pub const PUBLISHED: [Published; 11] = [
    Published {
        name: "z-image-25",
        computed: &[
            0, 1, 2, 3, 4, 5, 6, 8, 10, 11, 12, 13, 15, 16, 17, 18, 20, 22, 29, 37, 42, 45, 47, 48, 49,
        ],
        orders: &[0, 0, 0, 0, 0, 0, 2, 2, 0, 0, 0, 2, 0, 0, 0, 5, 5, 1, 1, 1, 5, 5, 0, 0],
    },
    Published {
        name: "z-image-20",
        computed: &[0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 30, 38, 43, 46, 48, 49],
        orders: &[0, 0, 0, 0, 2, 2, 2, 2, 2, 5, 4, 5, 5, 1, 1, 1, 5, 2, 0],
    },
    Published {
        name: "z-image-17",
        computed: &[0, 1, 2, 3, 4, 6, 8, 10, 12, 14, 19, 27, 35, 43, 46, 48, 49],
        orders: &[0, 0, 0, 0, 2, 2, 2, 2, 2, 1, 1, 1, 1, 5, 2, 0],
    },
    Published {
        name: "z-image-15",
        computed: &[0, 1, 2, 3, 5, 7, 10, 12, 17, 25, 33, 41, 45, 48, 49],
        orders: &[0, 0, 0, 2, 2, 2, 2, 1, 1, 1, 1, 5, 4, 0],
    },
    Published {
        name: "z-image-13",
        computed: &[0, 1, 2, 3, 5, 9, 15, 22, 29, 36, 43, 47, 49],
        orders: &[0, 0, 0, 2, 1, 1, 1, 1, 1, 1, 5, 2],
    },
    Published {
        name: "qwen-image-25",
        computed: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 24, 32, 40, 43, 45, 47, 48, 49],
        orders: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 5, 5, 5, 0, 0],
    },
    Published {
        name: "qwen-image-17",
        computed: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 17, 24, 31, 38, 45, 48, 49],
        orders: &[0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1, 1, 1, 1, 4, 0],
    },
    Published {
        name: "qwen-image-10",
        computed: &[0, 1, 3, 7, 14, 21, 28, 35, 42, 49],
        orders: &[0, 2, 1, 1, 1, 1, 1, 1, 4],
    },
    Published {
        name: "qwen-image-2512-25",
        computed: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 23, 31, 37, 44, 45, 46, 47, 48, 49],
        orders: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 2, 1, 1, 1, 5, 5, 0],
    },
    Published {
        name: "qwen-image-2512-17",
        computed: &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 19, 27, 35, 43, 47, 49],
        orders: &[0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 1, 1, 1, 1, 5, 5],
    },
    Published {
        name: "qwen-image-2512-10",
        computed: &[0, 2, 4, 7, 14, 21, 28, 35, 42, 49],
        orders: &[1, 3, 1, 1, 1, 1, 1, 1, 4],
    },
];

/// A published schedule at another number of steps: computed steps keep their place in the run, those that
/// fall together become one. An edge that skips nothing in 50 steps and does here has order 2.
pub fn scaled(published: &Published, steps: usize) -> (Vec<usize>, Vec<usize>) {
    let (mut computed, mut orders) = (Vec::<usize>::new(), Vec::new());
    for (k, step) in published.computed.iter().enumerate() {
        let place = (*step as f64 * steps.saturating_sub(1) as f64 / (STEPS - 1) as f64).round_ties_even();
        let order = published.orders.get(k).or(published.orders.last()).copied().unwrap_or(0);
        let order = if order == 0 && steps != STEPS { 2 } else { order };
        if computed.last().is_some_and(|last| *last >= place as usize) {
            orders.pop();
        } else {
            computed.push(place as usize);
        }
        orders.push(order);
    }
    (computed, orders)
}
