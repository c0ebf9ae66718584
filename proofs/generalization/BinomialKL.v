(* The binomial tail by relative entropy: Chernoff's bound and its inversion (Chernoff 1952; Langford 2005).

   kl(q || p) = q ln(q/p) + (1 - q) ln((1 - q)/(1 - p)), with 0 ln 0 = 0. For k/n <= p < 1
     P[Binomial(n, p) <= k] <= exp(-n kl(k/n || p)),
   so a bound u(k) >= k/n with n kl(k/n || u(k)) >= ln(1/delta) lies below the risk with probability at most delta. And
   kl(q || p) >= 2 (p - q)^2 (Pinsker's inequality for two outcomes): it is nowhere worse than Hoeffding's bound. In
   general, where kl(q || p) <= kl(q || b) with b >= q, p is at most b ([kl_inversion]). *)

Require Import Reals Lra Lia List ZArith.
From Coquelicot Require Import Rcomplements.
From LeanMnist.generalization Require Import Distribution Hoeffding ClopperPearson Confidence.
Open Scope R_scope.

Definition kl (q p : R) : R := q * ln (q / p) + (1 - q) * ln ((1 - q) / (1 - p)).

(* Markov's inequality for x^errors: x^k P[errors <= k] <= (1 - p + p x)^n for 0 <= x <= 1. *)
Lemma binomial_tail_markov n k p x : 0 <= p <= 1 -> 0 <= x <= 1 ->
  x ^ k * binomial_tail n k p <= (1 - p + p * x) ^ n.
Proof.
  intros Hp Hx. rewrite binomial_tail_below. revert k. induction n; intros k.
  - rewrite binomial_below_0_S. simpl. rewrite Rmult_1_r. replace 1 with (1 ^ k) by apply pow1. now apply pow_incr.
  - rewrite binomial_below_S_S. pose proof (IHn k) as B.
    assert (0 <= p * x) by (apply Rmult_le_pos; lra).
    assert (A : x ^ k * (p * binomial_below n k p) <= p * x * (1 - p + p * x) ^ n).
    { destruct k; [simpl; rewrite Rmult_0_r, Rmult_0_r; apply Rmult_le_pos; [lra | apply pow_le; lra]|].
      pose proof (IHn k). simpl pow at 1.
      replace (x * x ^ k * (p * binomial_below n (S k) p)) with (p * x * (x ^ k * binomial_below n (S k) p)) by ring.
      now apply Rmult_le_compat_l. }
    apply (Rmult_le_compat_l (1 - p)) in B; [|lra].
    change ((1 - p + p * x) ^ S n) with ((1 - p + p * x) * (1 - p + p * x) ^ n). lra.
Qed.

(* P[errors <= k] (q/p)^k ((1-q)/(1-p))^(n-k) <= 1 with q = k/n, in the form that whole numbers can decide. *)
Lemma binomial_tail_chernoff_pow n k p : (k <= n)%nat -> (0 < n)%nat -> 0 < p < 1 -> INR k / INR n <= p ->
  let q := INR k / INR n in binomial_tail n k p * (q / p) ^ k * ((1 - q) / (1 - p)) ^ (n - k) <= 1.
Proof.
  intros Hkn Hn Hp Hqp q. assert (Hn' : 0 < INR n) by now apply lt_0_INR.
  assert (Hq : 0 <= q <= p).
  { split; [|exact Hqp]. apply Rmult_le_pos; [apply pos_INR | left; now apply Rinv_0_lt_compat]. }
  set (x := q * (1 - p) / (p * (1 - q))).
  assert (Hden : 0 < p * (1 - q)) by (apply Rmult_lt_0_compat; lra).
  assert (Hx : 0 <= x <= 1).
  { split; [apply Rmult_le_pos; [apply Rmult_le_pos; lra | left; now apply Rinv_0_lt_compat]|].
    apply (Rmult_le_reg_r (p * (1 - q))); [exact Hden|]. unfold x. field_simplify; [nra | split; lra]. }
  pose proof (binomial_tail_markov n k p x (conj (Rlt_le _ _ (proj1 Hp)) (Rlt_le _ _ (proj2 Hp))) Hx) as M.
  replace (1 - p + p * x) with ((1 - p) / (1 - q)) in M by (unfold x; field; lra).
  assert (Hr : 0 < (1 - q) / (1 - p)) by (apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]).
  assert (Split : ((1 - q) / (1 - p)) ^ n = ((1 - q) / (1 - p)) ^ k * ((1 - q) / (1 - p)) ^ (n - k)).
  { rewrite <- pow_add. f_equal. lia. }
  apply (Rmult_le_compat_r (((1 - q) / (1 - p)) ^ n)) in M; [|left; now apply pow_lt].
  rewrite <- Rpow_mult_distr in M. replace ((1 - p) / (1 - q) * ((1 - q) / (1 - p))) with 1 in M by (field; lra).
  rewrite pow1, Split in M. eapply Rle_trans; [right|exact M].
  replace (x ^ k * binomial_tail n k p * (((1 - q) / (1 - p)) ^ k * ((1 - q) / (1 - p)) ^ (n - k)))
    with (binomial_tail n k p * (x ^ k * ((1 - q) / (1 - p)) ^ k) * ((1 - q) / (1 - p)) ^ (n - k)) by ring.
  rewrite <- Rpow_mult_distr. replace (x * ((1 - q) / (1 - p))) with (q / p) by (unfold x; field; lra). reflexivity.
Qed.

Lemma pow_ln x n : 0 < x -> x ^ n = exp (INR n * ln x).
Proof. intros Hx. rewrite <- exp_pow, exp_ln by exact Hx. reflexivity. Qed.

(* P[Binomial(n, p) <= k] <= exp(-n kl(k/n || p)) for k/n <= p *)
Theorem binomial_tail_chernoff n k p : (k <= n)%nat -> (0 < n)%nat -> 0 < p < 1 -> INR k / INR n <= p ->
  binomial_tail n k p <= exp (- INR n * kl (INR k / INR n) p).
Proof.
  intros Hkn Hn Hp Hqp. pose proof (binomial_tail_chernoff_pow n k p Hkn Hn Hp Hqp) as C. cbv zeta in C.
  assert (Hn' : 0 < INR n) by now apply lt_0_INR. set (q := INR k / INR n) in *.
  assert (Hk : INR k = INR n * q) by (unfold q; field; lra).
  assert (Hnk : INR (n - k) = INR n * (1 - q)) by (rewrite minus_INR, Hk by exact Hkn; ring).
  assert (Hr : 0 < (1 - q) / (1 - p)) by (apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]).
  assert (First : (q / p) ^ k = exp (INR k * ln (q / p))).
  { destruct k; [simpl; now rewrite Rmult_0_l, exp_0|]. apply pow_ln.
    assert (0 < q) by (unfold q; apply Rmult_lt_0_compat; [apply lt_0_INR; lia | now apply Rinv_0_lt_compat]).
    apply Rmult_lt_0_compat; [assumption | apply Rinv_0_lt_compat; lra]. }
  rewrite First, (pow_ln _ _ Hr), Rmult_assoc, <- exp_plus, Hk, Hnk in C.
  replace (INR n * q * ln (q / p) + INR n * (1 - q) * ln ((1 - q) / (1 - p))) with (INR n * kl q p) in C
    by (unfold kl; ring).
  apply (Rmult_le_compat_r (exp (- INR n * kl q p))) in C; [|left; apply exp_pos].
  rewrite Rmult_assoc, <- exp_plus in C. replace (INR n * kl q p + - INR n * kl q p) with 0 in C by ring.
  rewrite exp_0 in C. lra.
Qed.

(* Inversion: a bound u(k) >= k/n with n kl(k/n || u(k)) >= ln(1/delta), or u(k) = 1, which says nothing. *)
Theorem kl_covers n delta u : (0 < n)%nat -> 0 < delta -> (forall k, 0 <= u k) ->
  (forall k, (k <= n)%nat -> u k < 1 ->
    INR k / INR n <= u k /\ 0 < u k /\ ln (/ delta) <= INR n * kl (INR k / INR n) (u k)) ->
  covers n delta u.
Proof.
  intros Hn Hdelta Hu Hkl. apply clopper_pearson_covers; [lra | exact Hu|].
  intros k Hk Hone. destruct (Hkl k Hk Hone) as (Hq & Hpos & Hcost).
  eapply Rle_trans; [apply binomial_tail_chernoff; auto; lra|].
  rewrite <- (exp_ln delta) by exact Hdelta. apply exp_le. rewrite ln_Rinv in Hcost by exact Hdelta. lra.
Qed.

(* ---------- Pinsker's inequality for two outcomes ---------- *)

Lemma ln_le_minus_1 y : 0 < y -> ln y <= y - 1.
Proof. intros Hy. pose proof (exp_ineq1_le (ln y)). rewrite exp_ln in H by exact Hy. lra. Qed.

Lemma entropy_term q p z : 0 <= q -> 0 < p -> 0 < z -> q - p / z - q * ln z <= q * ln (q / p).
Proof.
  intros [Hq | <-] Hp Hz.
  - assert (Hy : 0 < p / (q * z)).
    { apply Rmult_lt_0_compat; [|apply Rinv_0_lt_compat, Rmult_lt_0_compat]; assumption. }
    pose proof (ln_le_minus_1 _ Hy) as L. apply (Rmult_le_compat_l q) in L; [|lra].
    replace (q * (p / (q * z) - 1)) with (p / z - q) in L by (field; lra).
    replace (p / (q * z)) with (/ (q / p * z)) in L by (field; lra).
    assert (0 < q / p) by (apply Rmult_lt_0_compat; [|apply Rinv_0_lt_compat]; assumption).
    rewrite ln_Rinv, ln_mult in L by (assumption || now apply Rmult_lt_0_compat). lra.
  - assert (0 < p / z) by (apply Rmult_lt_0_compat; [|apply Rinv_0_lt_compat]; assumption). lra.
Qed.

(* kl(q || p) >= 2 (p - q)^2 *)
Theorem pinsker q p : 0 <= q <= p -> 0 < p < 1 -> 2 * (p - q) ^ 2 <= kl q p.
Proof.
  intros Hq Hp. set (s := 4 * (p - q)). assert (Hs : 0 <= s) by (unfold s; lra).
  set (z := 1 - (1 - p) + (1 - p) * exp s).
  assert (Hz : 0 < z) by (apply Z_pos; lra).
  assert (Hln : ln z <= (1 - p) * s + s ^ 2 / 8).
  { rewrite <- (ln_exp ((1 - p) * s + s ^ 2 / 8)).
    pose proof (bernoulli_moment_bound (1 - p) ltac:(lra) s Hs) as M. change (z <= exp ((1 - p) * s + s ^ 2 / 8)) in M.
    destruct M as [Less | ->]; [left; now apply ln_increasing | right; reflexivity]. }
  pose proof (exp_pos s).
  assert (Hps : 0 < (1 - p) * exp s) by (apply Rmult_lt_0_compat; lra).
  pose proof (entropy_term q p z (proj1 Hq) (proj1 Hp) Hz) as First.
  pose proof (entropy_term (1 - q) ((1 - p) * exp s) z ltac:(lra) Hps Hz) as Second.
  assert (Sum : p / z + (1 - p) * exp s / z = 1) by (unfold z in *; field; lra).
  replace ((1 - q) / ((1 - p) * exp s)) with ((1 - q) / (1 - p) * exp (- s)) in Second
    by (rewrite exp_Ropp; field; lra).
  assert (0 < (1 - q) / (1 - p)) by (apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]).
  rewrite ln_mult, ln_exp in Second by (assumption || apply exp_pos).
  assert (Value : (p - q) * s - s ^ 2 / 8 = 2 * (p - q) ^ 2) by (unfold s; field).
  unfold kl. nra.
Qed.

(* So a bound that Hoeffding's inequality confirms is confirmed by kl: 2n (p - k/n)^2 >= ln(1/delta) is the stronger. *)
Theorem kl_confirms_what_hoeffding_does n k p delta : (0 < n)%nat -> 0 < p < 1 -> INR k / INR n <= p ->
  ln (/ delta) <= 2 * INR n * (p - INR k / INR n) ^ 2 -> ln (/ delta) <= INR n * kl (INR k / INR n) p.
Proof.
  intros Hn Hp Hq Hh. assert (Hn' : 0 < INR n) by now apply lt_0_INR.
  assert (0 <= INR k / INR n) by (apply Rmult_le_pos; [apply pos_INR | left; now apply Rinv_0_lt_compat]).
  pose proof (pinsker (INR k / INR n) p (conj H Hq) Hp) as P.
  apply (Rmult_le_compat_l (INR n)) in P; [|lra]. lra.
Qed.

(* ---------- from a bound on kl(q || p) to one on p ---------- *)

(* kl(q || p) <= c, where kl(q || 0) is infinite unless q = 0, and kl(q || 1) unless q = 1. *)
Definition kl_at_most (q p c : R) : Prop := (p = 0 -> q = 0) /\ (p = 1 -> q = 1) /\ kl q p <= c.

Lemma ln_less_than_minus_1 y : 0 < y -> y <> 1 -> ln y < y - 1.
Proof.
  intros Hy Hne. assert (Hln : ln y <> 0) by (intros E; apply Hne; now rewrite <- (exp_ln y Hy), E, exp_0).
  pose proof (exp_ineq1 _ Hln) as X. rewrite exp_ln in X by exact Hy. lra.
Qed.

(* ln(a/c) = ln(a/b) + ln(b/c) *)
Lemma ln_through a b c : 0 < a -> 0 < b -> 0 < c -> ln (a / c) = ln (a / b) + ln (b / c).
Proof.
  intros. rewrite <- ln_mult by (apply Rmult_lt_0_compat; [|apply Rinv_0_lt_compat]; assumption).
  f_equal. field. lra.
Qed.

Lemma kl_increasing q b p : 0 <= q <= b -> 0 < b < p -> p < 1 -> kl q b < kl q p.
Proof.
  intros Hq Hb Hp. assert (Less : forall u v, 0 < u -> 0 < v -> u <> v -> 1 - v / u < ln (u / v)).
  { intros u v Hu Hv Hne. replace (u / v) with (/ (v / u)) by (field; lra).
    assert (0 < v / u) by (apply Rmult_lt_0_compat; [|apply Rinv_0_lt_compat]; assumption).
    rewrite ln_Rinv by assumption. assert (L := ln_less_than_minus_1 (v / u)). enough (v / u <> 1) by lra.
    intros E. apply Hne. replace v with (v / u * u) by (field; lra). rewrite E. ring. }
  assert (First : q * ln (q / b) + q * (1 - p / b) <= q * ln (q / p)).
  { destruct (proj1 Hq) as [Pos | <-]; [|lra]. rewrite (ln_through q b p) by lra.
    pose proof (Less b p ltac:(lra) ltac:(lra) ltac:(lra)). nra. }
  assert (Second : (1 - q) * ln ((1 - q) / (1 - b)) + (1 - q) * (1 - (1 - p) / (1 - b))
                   < (1 - q) * ln ((1 - q) / (1 - p))).
  { rewrite (ln_through (1 - q) (1 - b) (1 - p)) by lra.
    pose proof (Less (1 - b) (1 - p) ltac:(lra) ltac:(lra) ltac:(lra)). nra. }
  assert (Gain : q * (1 - p / b) + (1 - q) * (1 - (1 - p) / (1 - b)) = (p - b) * (b - q) * / (b * (1 - b)))
    by (field; lra).
  assert (0 <= (p - b) * (b - q) * / (b * (1 - b))).
  { apply Rmult_le_pos; [apply Rmult_le_pos; lra|]. left. apply Rinv_0_lt_compat, Rmult_lt_0_compat; lra. }
  unfold kl. lra.
Qed.

(* kl(q || b) falls in q up to b, so an upper bound on q may stand for it. *)
Theorem kl_decreasing_in_q q q' b : 0 <= q <= q' -> q' <= b -> 0 < b < 1 -> kl q' b <= kl q b.
Proof.
  intros Hq Hb Hb1. destruct (Req_dec q' 0) as [Zero|Pos]; [replace q with q' by lra; lra|].
  pose proof (pinsker q q' ltac:(lra) ltac:(lra)) as P. assert (0 <= 2 * (q' - q) ^ 2) by nra.
  assert (Split : kl q b = kl q q' + (q * ln (q' / b) + (1 - q) * ln ((1 - q') / (1 - b)))).
  { unfold kl. rewrite (ln_through (1 - q) (1 - q') (1 - b)) by lra.
    destruct (proj1 Hq) as [Q | <-]; [rewrite (ln_through q q' b) by lra|]; ring. }
  assert (X : ln (q' / b) <= 0).
  { rewrite <- ln_1. apply ln_le; [apply Rmult_lt_0_compat; [lra | apply Rinv_0_lt_compat; lra]|].
    apply (Rmult_le_reg_r b); [lra|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l; lra. }
  assert (Y : 0 <= ln ((1 - q') / (1 - b))).
  { rewrite <- ln_1. apply ln_le; [lra|]. apply (Rmult_le_reg_r (1 - b)); [lra|].
    unfold Rdiv. rewrite Rmult_assoc, Rinv_l; lra. }
  rewrite Split. unfold kl at 1. nra.
Qed.

(* Where kl(q || p) <= c <= kl(q || b) and q <= b < 1, p <= b. *)
Theorem kl_inversion q p b c : 0 <= q <= b -> 0 < b < 1 -> p <= 1 -> kl_at_most q p c -> c <= kl q b -> p <= b.
Proof.
  intros Hq Hb Hp (_ & One & Most) Hc. apply Rnot_lt_le. intros Above.
  destruct (Req_dec p 1) as [E|Ne]; [specialize (One E); lra|].
  pose proof (kl_increasing q b p Hq ltac:(lra) ltac:(lra)). lra.
Qed.
