(* The exact binomial tail, decided in whole numbers: is sum_{i<=k} C(n,i) p^i (1-p)^(n-i) at most delta?

   Each term is the next one times a ratio, term i = term (i+1) * (i+1)(1-p) / ((n-i) p). So the sum is term k times
   1 + r_k (1 + r_(k-1) (1 + ...)), which is taken upward from i = 0 in units of 2^-128, rounded up in every step. Then
   term k = C(n,k) a^k b^(n-k) / d^n, for p = a / d and b = d - a, is compared exactly; the library Bignums multiplies
   the numbers of some hundred thousand bits. The theorem says that the answer "true" is the inequality between real
   numbers; "false" says nothing. *)
From Coq Require Import ZArith Reals Lia Lra Bool.
From Bignums Require Import BigN.
From LeanMnist.generalization Require Import ClopperPearson.
Open Scope Z_scope.

Definition relative_unit : bigN := (2 ^ 128)%bigN.

(* Of term i: i, n - i, the sum of all terms up to it divided by it (in units, rounded up), n (n-1) ... (n-i+1), i!. *)
Record term := { index : bigN; remaining : bigN; relative_sum : bigN; falling : bigN; factorial : bigN }.
Definition first_term (n : bigN) : term :=
  {| index := BigN.zero; remaining := n; relative_sum := relative_unit; falling := BigN.one; factorial := BigN.one |}.
Definition next_term (a b : bigN) (t : term) : term := (
  let next := BigN.succ (index t) in
  {| index := next; remaining := BigN.pred (remaining t);
     relative_sum := relative_unit + BigN.succ (relative_sum t * (next * b) / (remaining t * a));
     falling := falling t * remaining t; factorial := factorial t * next |})%bigN.

Definition big (z : Z) : bigN := BigN.of_N (Z.to_N z).

Definition tail_at_most (n k a d e f : Z) : bool :=
  (0 <=? k) && (k <=? n) && (0 <? a) && (a <=? d) && (0 <=? e) && (0 <? f)
  && (let t := Nat.iter (Z.to_nat k) (next_term (big a) (big (d - a))) (first_term (big n)) in
      (falling t * big a ^ big k * big (d - a) ^ big (n - k) * relative_sum t * big f
       <=? big e * big d ^ big n * relative_unit * factorial t)%bigN).

(* ---------- it is the inequality ---------- *)

Lemma big_spec z : 0 <= z -> BigN.to_Z (big z) = z.
Proof. intros H. unfold big. rewrite BigN.spec_of_N. now apply Z2N.id. Qed.

Lemma relative_unit_spec : BigN.to_Z relative_unit = 2 ^ 128.
Proof. reflexivity. Qed.

Lemma IZR_pow z e : 0 <= e -> IZR (z ^ e) = (IZR z ^ Z.to_nat e)%R.
Proof. intros H. rewrite pow_IZR. now rewrite Z2Nat.id. Qed.

Section Sums.
Variables (n : nat) (a b d : Z).
Hypotheses (a_positive : 0 < a) (b_is : b = d - a) (b_nonnegative : 0 <= b).
Local Notation p := (IZR a / IZR d)%R.

Definition invariant (k : nat) (t : term) : Prop :=
  BigN.to_Z (index t) = Z.of_nat k /\ BigN.to_Z (remaining t) = Z.of_nat n - Z.of_nat k
  /\ BigN.to_Z (falling t) = BigN.to_Z (factorial t) * choose n k /\ 0 < BigN.to_Z (factorial t)
  /\ (binomial_tail n k p * IZR (2 ^ 128) <= binomial_term n p k * IZR (BigN.to_Z (relative_sum t)))%R.

Lemma term_to_next k : (k < n)%nat ->
  (binomial_term n p k * IZR ((Z.of_nat n - Z.of_nat k) * a)
   = binomial_term n p (S k) * IZR (Z.of_nat (S k) * b))%R.
Proof.
  intros Hk. assert (Hd : IZR d <> 0%R) by (apply not_0_IZR; lia). unfold binomial_term.
  replace (n - k)%nat with (S (n - S k)) by lia. cbn [pow].
  replace (1 - p)%R with (IZR b / IZR d)%R by (rewrite b_is, minus_IZR; field; assumption).
  pose proof (f_equal IZR (choose_next n k)) as E. rewrite !mult_IZR in E |- *.
  transitivity (IZR (Z.of_nat n - Z.of_nat k) * IZR (choose n k)
                * p ^ k * (IZR b / IZR d * (IZR b / IZR d) ^ (n - S k)) * IZR a)%R; [ring|].
  rewrite <- E. field. assumption.
Qed.

Lemma next_keeps bigA bigB k t : BigN.to_Z bigA = a -> BigN.to_Z bigB = b -> (k < n)%nat ->
  invariant k t -> invariant (S k) (next_term bigA bigB t).
Proof.
  intros HA HB Hk (Hi & Hl & Hf & Hfact & Hsum). unfold invariant.
  cbn [next_term index remaining relative_sum falling factorial].
  rewrite BigN.spec_succ, BigN.spec_pred, !BigN.spec_mul, BigN.spec_succ, Hi, Hl, Hf.
  repeat split; try lia.
  - pose proof (choose_next n k). nia.
  - rewrite BigN.spec_add, relative_unit_spec, BigN.spec_succ, BigN.spec_div, !BigN.spec_mul, BigN.spec_succ.
    rewrite Hi, Hl, HA, HB.
    set (divisor := (Z.of_nat n - Z.of_nat k) * a). assert (Hdiv : 0 < divisor) by (unfold divisor; nia).
    set (ratio := (Z.of_nat k + 1) * b). set (sigma := BigN.to_Z (relative_sum t)) in *.
    assert (Up : (IZR sigma * IZR ratio <= IZR divisor * IZR (sigma * ratio / divisor + 1))%R).
    { rewrite <- !mult_IZR. apply IZR_le. pose proof (Z.mul_succ_div_gt (sigma * ratio) divisor Hdiv). lia. }
    pose proof (term_to_next k Hk) as E. fold divisor in E. rewrite Nat2Z.inj_succ in E.
    change (Z.succ (Z.of_nat k) * b) with ratio in E.
    unfold binomial_tail in *. rewrite tech5, Rmult_plus_distr_r, plus_IZR, Rmult_plus_distr_l.
    assert (Hd : (0 < IZR divisor)%R) by now apply IZR_lt.
    assert (0 <= binomial_term n p (S k))%R.
    { assert (Hd' : (0 < IZR d)%R) by (apply IZR_lt; lia). apply binomial_term_nonneg. split.
      - apply Rmult_le_pos; [apply IZR_le; lia | left; now apply Rinv_0_lt_compat].
      - apply Rmult_le_reg_r with (IZR d); [assumption|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l, Rmult_1_r, Rmult_1_l
          by lra. apply IZR_le. lia. }
    assert (sum_f_R0 (binomial_term n p) k * IZR (2 ^ 128)
            <= binomial_term n p (S k) * IZR (sigma * ratio / divisor + 1))%R; [|lra].
    apply (Rle_trans _ _ _ Hsum). apply Rmult_le_reg_r with (IZR divisor); [assumption|].
    replace (binomial_term n p k * IZR sigma * IZR divisor)%R
      with (binomial_term n p k * IZR divisor * IZR sigma)%R by ring.
    rewrite E. rewrite !Rmult_assoc. apply Rmult_le_compat_l; [assumption|]. lra.
Qed.

Lemma terms_keep bigA bigB k t : BigN.to_Z bigA = a -> BigN.to_Z bigB = b -> (k <= n)%nat ->
  invariant 0 t -> invariant k (Nat.iter k (next_term bigA bigB) t).
Proof.
  intros HA HB Hk H. induction k as [|k IH]; [assumption|]. cbn [Nat.iter nat_rect].
  apply next_keeps; try assumption; try lia. apply IH. lia.
Qed.
End Sums.

(* "true" means: the real number sum_{i<=k} C(n,i) (a/d)^i (1 - a/d)^(n-i) is at most e/f, and 0 <= a/d. *)
Theorem tail_at_most_correct n k a d e f : tail_at_most n k a d e f = true ->
  (binomial_tail (Z.to_nat n) (Z.to_nat k) (IZR a / IZR d) <= IZR e / IZR f)%R /\ (0 <= IZR a / IZR d)%R.
Proof.
  unfold tail_at_most. rewrite !andb_true_iff, !Z.leb_le, !Z.ltb_lt.
  intros [[[[[[Hk Hkn] Ha] Had] He] Hf] H].
  assert (Hd : (0 < IZR d)%R) by (apply IZR_lt; lia). assert (Hf' : (0 < IZR f)%R) by now apply IZR_lt.
  split; [|apply Rmult_le_pos; [apply IZR_le; lia | left; now apply Rinv_0_lt_compat]].
  pose proof (terms_keep (Z.to_nat n) a (d - a) d Ha eq_refl ltac:(lia) (big a) (big (d - a)) (Z.to_nat k)
    (first_term (big n))) as Inv.
  destruct Inv as (_ & _ & Hfall & Hfact & Hsum); try (apply big_spec; lia); try lia.
  { unfold invariant. cbn [first_term index remaining relative_sum falling factorial].
    rewrite big_spec, choose_0, relative_unit_spec by lia.
    repeat split; try lia. unfold binomial_tail. cbn [sum_f_R0]. apply Rle_refl. }
  cbv zeta in H. revert H Hfall Hfact Hsum.
  generalize (Nat.iter (Z.to_nat k) (next_term (big a) (big (d - a))) (first_term (big n))).
  intros t H Hfall Hfact Hsum. apply BigN.leb_le in H. red in H.
  rewrite !BigN.spec_mul, !BigN.spec_pow, relative_unit_spec, Hfall, !big_spec in H by lia.
  set (sigma := BigN.to_Z (relative_sum t)) in *. set (c := choose (Z.to_nat n) (Z.to_nat k)) in *.
  assert (H' : c * a ^ k * (d - a) ^ (n - k) * sigma * f <= e * d ^ n * 2 ^ 128).
  { apply (Z.mul_le_mono_pos_l _ _ _ Hfact). lia. }
  apply IZR_le in H'. rewrite !mult_IZR, (IZR_pow a), (IZR_pow (d - a)), (IZR_pow d) in H' by lia.
  assert (Term : (binomial_term (Z.to_nat n) (IZR a / IZR d) (Z.to_nat k) * IZR d ^ Z.to_nat n
                  = IZR c * IZR a ^ Z.to_nat k * IZR (d - a) ^ Z.to_nat (n - k))%R).
  { unfold binomial_term. fold c. rewrite <- Z2Nat.inj_sub by lia.
    replace (1 - IZR a / IZR d)%R with (IZR (d - a) * / IZR d)%R by (rewrite minus_IZR; field; lra).
    replace (IZR d ^ Z.to_nat n)%R with (IZR d ^ Z.to_nat k * IZR d ^ Z.to_nat (n - k))%R
      by (rewrite <- pow_add; f_equal; lia).
    unfold Rdiv. rewrite !Rpow_mult_distr, !pow_inv. field. split; apply pow_nonzero; lra. }
  set (tail := binomial_tail _ _ _) in *. set (last := binomial_term _ _ _) in *. rewrite <- Term in H'.
  assert (P : (0 < IZR d ^ Z.to_nat n)%R) by now apply pow_lt.
  assert (U : (0 < IZR (2 ^ 128))%R) by now apply IZR_lt.
  apply Rmult_le_reg_r with (IZR f); [assumption|]. unfold Rdiv. rewrite Rmult_assoc, Rinv_l, Rmult_1_r by lra.
  apply Rmult_le_reg_r with (IZR (2 ^ 128) * IZR d ^ Z.to_nat n)%R; [now apply Rmult_lt_0_compat|].
  apply Rle_trans with (last * IZR sigma * (IZR f * IZR d ^ Z.to_nat n))%R.
  - replace (tail * IZR f * (IZR (2 ^ 128) * IZR d ^ Z.to_nat n))%R
      with (tail * IZR (2 ^ 128) * (IZR f * IZR d ^ Z.to_nat n))%R by ring.
    apply Rmult_le_compat_r; [left; now apply Rmult_lt_0_compat | assumption].
  - lra.
Qed.
