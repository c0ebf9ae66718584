(* The definitions of Network.v as an OCaml program: what the theorems are about is what is executed.

   oracle/main.ml gives them the rational numbers of Zarith, reads networks and prints forward and gradients as
   fractions. Trusted is, besides Coq, its extraction, the OCaml compiler and Zarith's arithmetic. *)
Require Import Extraction ExtrOcamlBasic.
From LeanMnist Require Import gradients.Numbers gradients.Network.

Extraction Language OCaml.
Set Warnings "-extraction-default-directory".
Extraction "gradients/oracle/network.ml" logits gradients relu leaky_relu identity.
