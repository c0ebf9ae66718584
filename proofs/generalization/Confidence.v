(* Confidence: bounds that fail with probability at most delta, and how delta is shared.

   [covers n delta u]: for every distribution and every fixed classifier, the bound u(k), from k errors in n i.i.d.
   examples, lies below the risk with probability at most delta. By the union bound, what is said of several classifiers
   is said of each with a share of delta:
     one of 2^B, chosen on these examples         delta / 2^B
     n looks, none chosen by another's result     delta / n          (Bonferroni)
     n looks, each free to follow earlier counts  delta / sum_{i<n} (m + 1)^i *)

Require Import Reals Lra Lia List.
From LeanMnist.generalization Require Import Distribution Hoeffding ClopperPearson UnionBound.
Import ListNotations.
Open Scope R_scope.

Definition covers (n : nat) (delta : R) (u : nat -> R) : Prop :=
  forall (A : Type) (D : distribution A) (wrong : A -> bool),
    Prob (draws D n) (fun sample => u (errors wrong sample) < risk D wrong) <= delta.

(* ---------- bounds that cover ---------- *)

(* A greater bound covers as well, and so does a greater delta; a bound of 1 or more is never below a risk. *)
Theorem covers_monotone n delta delta' u v : covers n delta u -> delta <= delta' ->
  (forall k, (k <= n)%nat -> v k < 1 -> u k <= v k) -> covers n delta' v.
Proof.
  intros Hu Hdelta Hv A D wrong. eapply Rle_trans; [|apply Rle_trans with (2 := Hdelta), (Hu A D wrong)].
  apply Prob_mono_on. intros sample I Low. apply Rle_lt_trans with (2 := Low), Hv.
  - rewrite <- (draws_length D n sample I). apply errors_le_length.
  - pose proof (risk_range D wrong). lra.
Qed.

(* k/n + eps, where exp(-2 eps^2 n) <= delta. *)
Lemma hoeffding_margin_covers n delta eps : 0 <= eps -> exp (- 2 * eps ^ 2 * INR n) <= delta ->
  covers n delta (fun k => INR k / INR n + eps).
Proof.
  intros Heps Hdelta A D wrong.
  eapply Rle_trans; [|exact Hdelta].
  eapply Rle_trans; [|apply (hoeffding_below D (zero_one_loss wrong) (zero_one_loss_range wrong) n eps Heps)].
  apply Prob_mono_on. intros sample I. unfold mean. rewrite (draws_length D n sample I), errors_sum.
  unfold risk. lra.
Qed.

(* The bound that is printed: u(k) >= k/n with 2n (u(k) - k/n)^2 >= ln(1/delta), or u(k) = 1, which says nothing. *)
Theorem hoeffding_covers n delta u : (0 < n)%nat -> 0 < delta ->
  (forall k, (k <= n)%nat -> u k < 1 ->
    INR k / INR n <= u k /\ ln (/ delta) <= 2 * INR n * (u k - INR k / INR n) ^ 2) ->
  covers n delta u.
Proof.
  intros Hn Hdelta Hu. assert (Hn' : 0 < INR n) by now apply lt_0_INR.
  destruct (Rle_lt_dec 1 delta) as [Large|Small].
  { intros A D wrong. apply Rle_trans with (2 := Large), Prob_range. }
  assert (Hln : 0 < ln (/ delta)) by (rewrite ln_Rinv by lra; pose proof (ln_increasing delta 1 Hdelta Small) as L;
    rewrite ln_1 in L; lra).
  set (square := ln (/ delta) / (2 * INR n)).
  assert (Hsq : 0 <= square) by (apply Rmult_le_pos; [lra | left; apply Rinv_0_lt_compat; lra]).
  apply (covers_monotone n delta delta (fun k => INR k / INR n + sqrt square)); [|apply Rle_refl|].
  - apply hoeffding_margin_covers; [apply sqrt_pos|]. rewrite pow2_sqrt by exact Hsq.
    replace (- 2 * square * INR n) with (ln delta) by (unfold square; rewrite ln_Rinv by lra; field; lra).
    rewrite exp_ln by exact Hdelta. apply Rle_refl.
  - intros k Hk Hone. destruct (Hu k Hk Hone) as [Above Cost].
    enough (sqrt square <= u k - INR k / INR n) by lra.
    rewrite <- (sqrt_pow2 (u k - INR k / INR n)) by lra. apply sqrt_le_1_alt.
    apply (Rmult_le_reg_l (2 * INR n)); [lra|]. unfold square.
    replace (2 * INR n * (ln (/ delta) / (2 * INR n))) with (ln (/ delta)) by (field; lra). exact Cost.
Qed.

(* u(k) in [0, 1] where P[Binomial(n, u(k)) <= k] <= delta. *)
Theorem clopper_pearson_covers n delta u : 0 <= delta -> (forall k, 0 <= u k) ->
  (forall k, (k <= n)%nat -> u k < 1 -> binomial_tail n k (u k) <= delta) -> covers n delta u.
Proof. intros Hdelta Hu Htail A D wrong. now apply clopper_pearson_coverage. Qed.

(* ---------- both sides ---------- *)

Lemma errors_of_right {A} (wrong : A -> bool) sample :
  errors (fun a => negb (wrong a)) sample = (length sample - errors wrong sample)%nat.
Proof.
  induction sample as [|a sample IH]; [reflexivity|]. pose proof (errors_le_length wrong sample).
  cbn [errors length]. rewrite IH. destruct (wrong a); cbn [negb]; lia.
Qed.

(* The interval from 1 - u(n - k) to u(k), each side with delta/2, misses the risk with probability at most delta. *)
Theorem interval_covers {A} (D : distribution A) (wrong : A -> bool) n delta u : covers n (delta / 2) u ->
  Prob (draws D n) (fun sample => let k := errors wrong sample in
    risk D wrong < 1 - u (n - k)%nat \/ u k < risk D wrong) <= delta.
Proof.
  intros Hu. pose proof (Hu A D wrong) as Upper. pose proof (Hu A D (fun a => negb (wrong a))) as Lower.
  eapply Rle_trans; [apply Prob_or|]. eapply Rle_trans; [apply Rplus_le_compat; [|exact Upper]|].
  - eapply Rle_trans; [|exact Lower]. apply Prob_mono_on. intros sample I.
    rewrite errors_of_right, (draws_length D n sample I).
    assert (risk D (fun a => negb (wrong a)) = 1 - risk D wrong) as ->; [|intros Low; lra].
    unfold risk. rewrite <- E_complement. apply E_ext. intros a. unfold zero_one_loss. destruct (wrong a); simpl; ring.
  - lra.
Qed.

(* ---------- one of many hypotheses, chosen on these examples ---------- *)

Section Shares.
  Context {A H : Type} (D : distribution A) (wrong : H -> A -> bool).

  (* A bound with the share delta / 2^B holds for all 2^B hypotheses at once, so for whichever was learnt. *)
  Theorem union_share n delta B (u : nat -> R) (space : list H) :
    INR (length space) <= 2 ^ B -> covers n (delta / 2 ^ B) u ->
    Prob (draws D n) (fun sample => exists h, In h space /\ u (errors (wrong h) sample) < risk D (wrong h)) <= delta.
  Proof.
    intros Hsize Hu. assert (H2 : 0 < 2 ^ B) by (apply pow_lt; lra).
    assert (0 <= delta / 2 ^ B) by (eapply Rle_trans; [|apply (Hu A D (fun _ => true))]; apply Prob_range).
    eapply Rle_trans; [apply (union_of_equal_bounds D space _ n (delta / 2 ^ B)); intros h; apply Hu|].
    replace delta with (2 ^ B * (delta / 2 ^ B)) at 2 by (field; lra). now apply Rmult_le_compat_r.
  Qed.

  (* Several looks at the same examples, of candidates that were fixed before: each with its share of delta. *)
  Theorem looks_share n delta looks (u : nat -> R) (candidates : list H) :
    (0 < looks)%nat -> length candidates = looks -> covers n (delta / INR looks) u ->
    Prob (draws D n) (fun sample => exists h, In h candidates /\ u (errors (wrong h) sample) < risk D (wrong h))
      <= delta.
  Proof.
    intros Hlooks Hlen Hu. assert (0 < INR looks) by now apply lt_0_INR.
    eapply Rle_trans; [apply (union_of_equal_bounds D candidates _ n (delta / INR looks)); intros h; apply Hu|].
    rewrite Hlen. right. field. lra.
  Qed.
End Shares.

(* Claims of any kind, each with its own delta: their sum. *)
Theorem total_delta {A H} (D : distribution A) (fails : H -> A -> Prop) (delta : H -> R) (claims : list H) :
  (forall h, In h claims -> Prob D (fails h) <= delta h) ->
  Prob D (fun a => exists h, In h claims /\ fails h a) <= sum_over delta claims.
Proof. intros Hc. eapply Rle_trans; [apply Prob_union|]. now apply sum_over_le_on. Qed.

(* ---------- looks that follow earlier results ---------- *)

(* All courses of i answers, each from 0 to m. *)
Fixpoint courses (m i : nat) : list (list nat) :=
  match i with O => [[]] | S j => flat_map (fun course => map (fun k => k :: course) (seq 0 (S m))) (courses m j) end.

Lemma courses_count m i : INR (length (courses m i)) = (INR m + 1) ^ i.
Proof.
  induction i; [reflexivity|]. simpl courses.
  assert (Hl : forall l : list (list nat),
    INR (length (flat_map (fun course => map (fun k => k :: course) (seq 0 (S m))) l)) = INR (S m) * INR (length l)).
  { induction l as [|c l IH]; [simpl; ring|]. change (length (c :: l)) with (S (length l)).
    cbn [flat_map]. rewrite app_length, map_length, seq_length, plus_INR, IH, (S_INR (length l)). ring. }
  rewrite Hl, IHi, S_INR. simpl. ring.
Qed.

Section AdaptiveLooks.
  Context {A H : Type} (D : distribution A) (wrong : H -> A -> bool).
  Variable candidate : list nat -> H.  (* who is looked at next, from the counts so far, the latest first *)

  (* The counts after i looks. *)
  Fixpoint counts (i : nat) (sample : list A) : list nat :=
    match i with O => [] | S j => let past := counts j sample in errors (wrong (candidate past)) sample :: past end.

  Lemma counts_in_courses m i sample : length sample = m -> In (counts i sample) (courses m i).
  Proof.
    intros Hlen. induction i; [now left|]. cbn [counts courses]. apply in_flat_map.
    exists (counts i sample). split; [exact IHi|]. apply (in_map (fun k => k :: counts i sample)), in_seq.
    pose proof (errors_le_length (wrong (candidate (counts i sample))) sample). lia.
  Qed.

  (* Whoever acts on counts reaches one of (m + 1)^i candidates at look i, counted from 0. *)
  Theorem adaptive_looks_share m looks delta u :
    let courses_in_all := sum_over (fun i => (INR m + 1) ^ i) (seq 0 looks) in
    (0 < looks)%nat -> covers m (delta / courses_in_all) u ->
    Prob (draws D m) (fun sample => exists i, (i < looks)%nat /\
      let h := candidate (counts i sample) in u (errors (wrong h) sample) < risk D (wrong h)) <= delta.
  Proof.
    intros courses_in_all Hlooks Hu.
    assert (Hpos : 0 < courses_in_all).
    { pose proof (pos_INR m). apply Rlt_le_trans with ((INR m + 1) ^ 0); [simpl; lra|].
      apply (sum_over_ge_term (fun i => (INR m + 1) ^ i)); [intros; apply pow_le; lra | apply in_seq; lia]. }
    set (all := flat_map (courses m) (seq 0 looks)).
    assert (Hall : INR (length all) = courses_in_all).
    { unfold all, courses_in_all. generalize (seq 0 looks). induction l as [|i l IH]; [reflexivity|].
      cbn [flat_map]. rewrite app_length, plus_INR, courses_count, IH. reflexivity. }
    eapply Rle_trans; [apply Prob_mono_on with (Q := fun sample => exists course, In course all /\
      u (errors (wrong (candidate course)) sample) < risk D (wrong (candidate course)))|].
    - intros sample I (i & Hi & Hmiss). exists (counts i sample). split; [|exact Hmiss].
      apply in_flat_map. exists i. split; [apply in_seq; lia | apply counts_in_courses, (draws_length D m), I].
    - eapply Rle_trans; [apply (union_of_equal_bounds D all _ m (delta / courses_in_all)); intros; apply Hu|].
      rewrite Hall. right. field. lra.
  Qed.
End AdaptiveLooks.
