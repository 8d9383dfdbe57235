//! `transform!`: from the names and types of the columns to everything else.

/// Declares the columns of a transform and the function that computes them.
///
/// ```text
/// weir_plugin::transform! {
///     inputs: { name: type, … },
///     outputs: { name: type, … },
///     row: function,          // fn(Inputs) -> Outputs, called for each row
/// }
/// ```
///
/// or, for whole columns at once,
///
/// ```text
///     batch: function,        // fn(InputColumns) -> Result<OutputColumns, weir_plugin::Error>
/// ```
///
/// Types are Rust's own names: `f64`, `f32`, `i64`, `bool`, `str`, `[u8]`, `[f32]`, and
/// [`Timestamp`](crate::Timestamp). The macro defines, where it stands:
///
/// - with `row:`, `Inputs`: one row, each field an `Option` of the value (`None` = a hole); and `Outputs`:
///   the same for what is computed (`String`, `Vec<u8>` and `Vec<f32>` are owned here);
/// - `InputColumns`, of [`Column`](crate::Column)s, and `OutputColumns`, of [`Output`](crate::Output)s;
/// - `Transform`, which [`testing::Table`](crate::testing::Table) runs;
/// - in a Wasm build, the component's exports.
///
/// One component is one transform, so use it once in a crate.
#[macro_export]
macro_rules! transform {
    (
        inputs: { $($(#[$im:meta])* $in:ident: $it:ty),+ $(,)? },
        outputs: { $($(#[$om:meta])* $out:ident: $ot:ty),+ $(,)? },
        row: $row:expr $(,)?
    ) => {
        /// The inputs of one row; `None` is a hole.
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        #[allow(missing_docs, dead_code, unreachable_pub)]
        pub struct Inputs<'a> {
            $($(#[$im])* pub $in: ::std::option::Option<<$it as $crate::Value>::In<'a>>,)+
        }

        /// The outputs of one row; `None` is a hole.
        #[derive(Clone, Debug, Default, PartialEq)]
        #[allow(missing_docs, dead_code, unreachable_pub)]
        pub struct Outputs {
            $($(#[$om])* pub $out: ::std::option::Option<<$ot as $crate::Value>::Out>,)+
        }

        $crate::transform! {
            inputs: { $($(#[$im])* $in: $it),+ },
            outputs: { $($(#[$om])* $out: $ot),+ },
            batch: |columns: InputColumns<'_>| {
                // Ties a closure's parameter to any lifetime, as a function's is.
                fn row<F: Fn(Inputs<'_>) -> Outputs>(function: F) -> F {
                    function
                }
                let compute = row($row);
                let mut computed = OutputColumns::default();
                for row in 0..columns.rows() {
                    let outputs = compute(Inputs { $($in: columns.$in.get(row)),+ });
                    $(computed.$out.push(outputs.$out.as_ref().map(<$ot as $crate::Value>::view));)+
                }
                ::std::result::Result::Ok(computed)
            },
        }
    };
    (
        inputs: { $($(#[$im:meta])* $in:ident: $it:ty),+ $(,)? },
        outputs: { $($(#[$om:meta])* $out:ident: $ot:ty),+ $(,)? },
        batch: $batch:expr $(,)?
    ) => {
        /// The inputs of a batch.
        #[derive(Clone, Copy, Debug)]
        #[allow(missing_docs, dead_code, unreachable_pub)]
        pub struct InputColumns<'a> {
            $($(#[$im])* pub $in: $crate::Column<'a, $it>,)+
            rows: usize,
        }

        #[allow(dead_code)]
        impl InputColumns<'_> {
            /// Number of rows, the same in every column.
            #[allow(unreachable_pub)]
            pub fn rows(&self) -> usize {
                self.rows
            }
        }

        /// The outputs of a batch; every column must have as many values as the inputs.
        #[derive(Clone, Default)]
        #[allow(missing_docs, dead_code, unreachable_pub)]
        pub struct OutputColumns {
            $($(#[$om])* pub $out: $crate::Output<$ot>,)+
        }

        /// This transform, as the gateway and the test harness know it.
        #[derive(Clone, Copy, Debug)]
        #[allow(dead_code, unreachable_pub)]
        pub struct Transform;

        impl $crate::Transform for Transform {
            fn schema() -> $crate::raw::Schema {
                $crate::raw::Schema {
                    inputs: ::std::vec![$($crate::expansion::field::<$it>(::std::stringify!($in))),+],
                    outputs: ::std::vec![$($crate::expansion::field::<$ot>(::std::stringify!($out))),+],
                }
            }

            fn call(
                input: &$crate::raw::Batch,
            ) -> ::std::result::Result<$crate::raw::Batch, $crate::Error> {
                // Ties a closure's parameter to any lifetime, as a function's is.
                fn batch<F>(function: F) -> F
                where
                    F: Fn(InputColumns<'_>) -> ::std::result::Result<OutputColumns, $crate::Error>,
                {
                    function
                }
                let rows = input.rows as usize;
                let mut reader = $crate::expansion::Reader::new(input);
                let columns = InputColumns { $($in: reader.column::<$it>()?,)+ rows };
                let computed = batch($batch)(columns)?;
                let mut writer = $crate::expansion::Writer::new(rows)?;
                $(writer.column::<$ot>(::std::stringify!($out), computed.$out)?;)+
                ::std::result::Result::Ok(writer.finish())
            }
        }

        #[cfg(target_arch = "wasm32")]
        const _: () = {
            type Guest = $crate::expansion::Export<Transform>;
            $crate::raw::export_guest!(Guest with_types_in $crate::raw);
        };
    };
}
