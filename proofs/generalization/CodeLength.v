(* Unequal shares of delta by code length: hypotheses with a prefix code (Blumer et al. 1987; McAllester 1998).

   Kraft's inequality: the words of a prefix code satisfy sum 2^-length <= 1. So if every hypothesis h gets the share
   delta 2^-length(h) of the failure probability, the shares sum to at most delta, and a bound with the share of
   whichever hypothesis was learnt fails with probability at most delta. For Hoeffding's inequality this means
     risk <= errors/m + sqrt((length(h) ln 2 + ln(1/delta)) / 2m)   for whichever h is learnt.
   The code has to be fixed before the examples are drawn; the hypothesis need not be. *)

Require Import Reals Lra Lia List.
From LeanMnist.generalization Require Import Distribution Hoeffding ClopperPearson UnionBound Confidence.
Import ListNotations.
Open Scope R_scope.

(* ---------- Kraft's inequality ---------- *)

Definition prefix (w v : list bool) : Prop := exists rest, v = w ++ rest.

(* No word occurs twice, and none is the beginning of another. *)
Definition prefix_free (code : list (list bool)) : Prop :=
  NoDup code /\ forall w v, In w code -> In v code -> prefix w v -> w = v.

Definition weight (length : nat) : R := (/ 2) ^ length.

Lemma ln_weight l : ln (weight l) = - (INR l * ln 2).
Proof.
  unfold weight. induction l; [simpl; rewrite ln_1; ring|]. cbn [pow].
  rewrite ln_mult, ln_Rinv, IHl, S_INR by (lra || apply pow_lt; lra). ring.
Qed.

(* The rests of the words that begin with b. *)
Fixpoint after (b : bool) (code : list (list bool)) : list (list bool) :=
  match code with
  | [] => []
  | (c :: w) :: code => if Bool.eqb b c then w :: after b code else after b code
  | [] :: code => after b code
  end.

Lemma after_in b code w : In w (after b code) <-> In (b :: w) code.
Proof.
  induction code as [|[|c v] code IH]; simpl; [easy| |].
  - rewrite IH. split; [auto | intros [E|I]; [discriminate | exact I]].
  - destruct (Bool.eqb b c) eqn:Eq; simpl; rewrite IH.
    + apply Bool.eqb_prop in Eq as <-. split; intros [E|I]; auto; left; congruence.
    + split; [auto|]. intros [E|I]; [|exact I]. injection E as -> _. now rewrite Bool.eqb_reflx in Eq.
Qed.

Lemma after_prefix_free b code : prefix_free code -> prefix_free (after b code).
Proof.
  intros [Hdup Hpre]. split.
  - clear Hpre. induction code as [|[|c v] code IH]; simpl; [constructor| |]; apply NoDup_cons_iff in Hdup as [Hn Hdup].
    + now apply IH.
    + destruct (Bool.eqb b c) eqn:Eq; [|now apply IH]. apply Bool.eqb_prop in Eq as <-.
      constructor; [now rewrite after_in | now apply IH].
  - intros w v Iw Iv (rest & ->). apply after_in in Iw, Iv.
    assert (Eq : b :: w = b :: w ++ rest) by (apply Hpre; auto; now exists rest). now injection Eq.
Qed.

Lemma weight_split code : ~ In [] code ->
  sum_over (fun w => weight (length w)) code =
  / 2 * sum_over (fun w => weight (length w)) (after true code) +
  / 2 * sum_over (fun w => weight (length w)) (after false code).
Proof.
  induction code as [|[|c w] code IH]; intros Hn; simpl in Hn; [simpl; ring | tauto|].
  rewrite sum_over_cons, IH by tauto. unfold weight at 1. destruct c; simpl; unfold weight; ring.
Qed.

(* Kraft 1949: the words of a prefix code satisfy sum 2^-length <= 1. *)
Theorem kraft_inequality code : prefix_free code -> sum_over (fun w => weight (length w)) code <= 1.
Proof.
  assert (Main : forall n code, (forall w, In w code -> (length w <= n)%nat) -> prefix_free code ->
    sum_over (fun w => weight (length w)) code <= 1).
  { induction n; intros c Hlen Hc; destruct (in_dec (list_eq_dec Bool.bool_dec) [] c) as [Hin|Hnin].
    1,3: assert (Only : c = [[]]);
      [|rewrite Only; unfold weight; simpl; lra].
    1,2: destruct Hc as [Hdup Hpre]; assert (Nil : forall w, In w c -> w = [])
        by (intros w I; symmetry; apply Hpre; auto; now exists w);
      destruct c as [|w [|v c]]; [easy | now rewrite (Nil w) by now left |];
      exfalso; apply NoDup_cons_iff in Hdup as [Hn _]; apply Hn; left;
      rewrite (Nil w), (Nil v); simpl; auto.
    - destruct c as [|w c]; [simpl; lra|]. exfalso. apply Hnin. specialize (Hlen w (or_introl eq_refl)).
      destruct w; [now left | simpl in Hlen; lia].
    - rewrite (weight_split c Hnin).
      assert (Half : forall b, sum_over (fun w => weight (length w)) (after b c) <= 1).
      { intros b. apply IHn; [|now apply after_prefix_free]. intros w I. apply after_in, Hlen in I. simpl in I. lia. }
      pose proof (Half true). pose proof (Half false). lra. }
  intros Hc. apply (Main (list_max (map (@length bool) code))); [|exact Hc].
  intros w I. pose proof (list_max_le (map (@length bool) code) (list_max (map (@length bool) code))) as [Hmax _].
  specialize (Hmax (le_n _)). rewrite Forall_forall in Hmax. apply Hmax, in_map, I.
Qed.

(* ---------- shares of delta ---------- *)

Section Shares.
  Context {A H : Type} (D : distribution A) (wrong : H -> A -> bool) (space : list H).

  (* Lengths that satisfy Kraft's inequality, whether or not a code is known that has them. *)
  Theorem code_length_share n delta (len : H -> nat) (u : nat -> nat -> R) :
    0 <= delta -> sum_over (fun h => weight (len h)) space <= 1 ->
    (forall l, covers n (delta * weight l) (u l)) ->
    Prob (draws D n) (fun sample => exists h, In h space /\ u (len h) (errors (wrong h) sample) < risk D (wrong h))
      <= delta.
  Proof.
    intros Hdelta Hkraft Hu.
    eapply Rle_trans; [apply (total_delta (draws D n) _ (fun h => delta * weight (len h)))|].
    - intros h _. apply Hu.
    - rewrite sum_over_scal. replace delta with (delta * 1) at 2 by ring. now apply Rmult_le_compat_l.
  Qed.

  (* A prefix code, and whatever is learnt: the bound u with the share delta 2^-length holds but for delta. *)
  Theorem prefix_code_bound n delta (code : H -> list bool) (learn : list A -> H) (u : nat -> nat -> R) :
    0 <= delta -> prefix_free (map code space) -> (forall sample, length sample = n -> In (learn sample) space) ->
    (forall l, covers n (delta * weight l) (u l)) ->
    Prob (draws D n) (fun sample => let h := learn sample in
      u (length (code h)) (errors (wrong h) sample) < risk D (wrong h)) <= delta.
  Proof.
    intros Hdelta Hcode Hin Hu.
    eapply Rle_trans; [|apply (code_length_share n delta (fun h => length (code h)) u Hdelta)]; [|
      rewrite <- (sum_over_map code (fun w => weight (length w))); now apply kraft_inequality | exact Hu].
    apply Prob_mono_on. intros sample I Hmiss. exists (learn sample).
    split; [apply Hin, (draws_length D n), I | exact Hmiss].
  Qed.

  (* Hoeffding's inequality by code length: eps(l) = sqrt((l ln 2 + ln(1/delta)) / 2m), or anything greater. *)
  Theorem prefix_code_hoeffding m delta (code : H -> list bool) (learn : list A -> H) (eps : nat -> R) :
    (0 < m)%nat -> 0 < delta -> prefix_free (map code space) ->
    (forall sample, length sample = m -> In (learn sample) space) ->
    (forall l, sqrt ((INR l * ln 2 + ln (/ delta)) / (2 * INR m)) <= eps l) ->
    Prob (draws D m) (fun sample => let h := learn sample in
      INR (errors (wrong h) sample) / INR m + eps (length (code h)) < risk D (wrong h)) <= delta.
  Proof.
    intros Hm Hdelta Hcode Hin Heps.
    apply (prefix_code_bound m delta code learn (fun l k => INR k / INR m + eps l)); [lra | exact Hcode | exact Hin|].
    intros l. assert (Hm' : 0 < INR m) by now apply lt_0_INR. specialize (Heps l).
    set (cost := INR l * ln 2 + ln (/ delta)) in *.
    assert (Root := sqrt_pos (cost / (2 * INR m))).
    assert (Hpos : 0 < weight l) by (apply pow_lt; lra).
    apply hoeffding_covers; [exact Hm | now apply Rmult_lt_0_compat|]. intros k _ _. split; [lra|].
    replace (INR k / INR m + eps l - INR k / INR m) with (eps l) by ring.
    replace (ln (/ (delta * weight l))) with cost.
    2:{ unfold cost. rewrite !ln_Rinv, ln_mult, ln_weight by (assumption || lra || now apply Rmult_lt_0_compat). ring. }
    destruct (Rle_lt_dec 0 cost) as [Hcost|Hcost].
    - replace cost with (2 * INR m * sqrt (cost / (2 * INR m)) ^ 2).
      + apply Rmult_le_compat_l; [lra | apply pow_incr; lra].
      + rewrite pow2_sqrt; [field; lra|]. apply Rmult_le_pos; [exact Hcost | left; apply Rinv_0_lt_compat; lra].
    - assert (0 <= 2 * INR m * eps l ^ 2) by (apply Rmult_le_pos; [lra | apply pow2_ge_0]). lra.
  Qed.
End Shares.
